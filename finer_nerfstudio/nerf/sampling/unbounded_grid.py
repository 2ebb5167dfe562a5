"""The occupancy grid of scenes without end: its cells divide contracted space, and steps grow with distance."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from finer_nerfstudio.nerf.radiance import box_to_world, world_to_box
from finer_nerfstudio.nerf.sampling.contraction import contract, distance_at, expand, shrinkage
from finer_nerfstudio.nerf.sampling.sampler import EVERYWHERE, OccupancyGrid, RayLimits
from finer_nerfstudio.nerf.sampling.segments import RaySegments


class UnboundedGrid(OccupancyGrid):
    """An :class:`OccupancyGrid` over all of space.

    Half of the steps of a ray are of equal length, as in a bounded scene, and reach as far as half the diagonal of
    the scene's box. The other half goes on from there to the far plane, equal in the reciprocal of distance: to
    ``steps / 4`` diagonals. What is beyond is sky.

    Lengths of segments are contracted as space is where they lie: a haze that is the same everywhere in the field's
    coordinates then leaves the sky visible, which can be learnt as a picture on which matter is put where it has to be.
    In true lengths everything starts as fog a few boxes away, in front of which training would have to find the scene.
    """

    @property
    def reach(self) -> float:
        """Distance up to which steps are of equal length, world units."""
        return 0.5 * self.steps * self.step_length

    def to_grid(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        return contract(world_to_box(positions, self.aabb))

    def to_world(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        return box_to_world(expand(positions), self.aabb)

    def lengths_at(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        """As segments have it there, seen from the middle of the box: cameras stand in the box or near it."""
        distances = (positions - self.aabb.mean(dim=0)).norm(dim=-1)
        farthest = self.reach * 0.5 * self.steps
        lengths = self.step_length * (distances.clamp(self.reach, farthest) / self.reach).square()
        return lengths * shrinkage(world_to_box(positions, self.aabb))

    @torch.no_grad()
    def march(
        self,
        origins: Float[Tensor, "rays 3"],
        directions: Float[Tensor, "rays 3"],
        limits: RayLimits = EVERYWHERE,
    ) -> RaySegments:
        """Return the occupied segments of rays up to the far plane; see :meth:`Sampler.march`."""
        steps = self.steps if limits.steps is None else limits.steps
        reach = self.reach
        # The last step would end at infinity.
        edges = torch.arange(max(2, steps), device=origins.device, dtype=origins.dtype) * (2.0 / max(2, steps))
        edge_distances = distance_at(edges, reach)
        lengths = edge_distances.diff()

        num_rays, columns = origins.shape[0], lengths.shape[0]
        if limits.generator is None:
            offsets = origins.new_full((num_rays,), 0.5)
        else:
            offsets = torch.rand(num_rays, device=origins.device, dtype=origins.dtype, generator=limits.generator)
        # A segment is looked at where its share ``offset`` of contracted length ends.
        distances = distance_at(edges[:-1] + offsets[:, None] * edges[1], reach)
        inside = distances >= limits.near_plane
        if limits.nears is not None:
            inside &= distances >= limits.nears
        if limits.fars is not None:
            inside &= distances <= limits.fars

        # As contract(), but one coordinate at a time: a table of them all is slow to stride through.
        start = world_to_box(origins, self.aabb)
        slope = directions * (2.0 / (self.aabb[1] - self.aabb[0]))
        coordinates = [
            torch.addcmul(start[:, axis : axis + 1], slope[:, axis : axis + 1], distances) for axis in range(3)
        ]
        largest = torch.maximum(torch.maximum(coordinates[0].abs(), coordinates[1].abs()), coordinates[2].abs())
        largest.clamp_(min=1.0)
        shrink = (1.0 - 0.5 / largest) / largest * (0.5 * self.resolution)
        cell = torch.zeros_like(distances, dtype=torch.int32)
        for coordinate in coordinates:
            place = coordinate.mul_(shrink).add_(0.5 * self.resolution).to(torch.int32)
            cell.mul_(self.resolution).add_(place.clamp_(0, self.resolution - 1))
        hit = self.occupied.index_select(0, cell.view(-1)).view(num_rays, columns).logical_and_(inside)

        ray_indices, column, slots, counts = self.kept(hit, limits.max_samples)
        return RaySegments(
            ray_indices,
            slots,
            distances[ray_indices, column],
            lengths[column] / largest[ray_indices, column].square(),
            counts,
            inside[: counts.shape[0]].sum(dim=1),
        )
