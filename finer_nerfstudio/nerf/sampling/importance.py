"""Samples of rays through a scene without end, drawn where its occupancy grid expects them to count."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from finer_nerfstudio.inr.kernels import building
from finer_nerfstudio.nerf.sampling.contraction import contract, distance_at, shrinkage

_APART = 0.618034
# Steps that are expected to show less than this altogether are taken as if they showed so much.
_FEWEST = 1e-6


@dataclass(frozen=True)
class Amount:
    """How many samples a ray has.

    Attributes:
        per_spread: for each step that its chances are spread over; fog wants many, and a wall few.
        fewest: at least, where anything is occupied.
        most: at most.
        shared: share of the samples that go to all occupied steps alike, whatever the grid expects of them.
    """

    per_spread: float
    fewest: int = 6
    most: int = 48
    shared: float = 0.3


@dataclass(frozen=True)
class Chances:
    """How rays are cut into steps, and how likely each step is to be sampled.

    Attributes:
        reach: distance up to which steps are of equal length, world units.
        per_step: progress of a step, of which the reach is 1.
        columns: steps of a ray.
        thickness: ``[cells]`` optical thickness that the grid remembers of each cell.
        unit: length whose thickness that is, world units, contracted as space is there.
        occupied: ``[cells]`` which of them may hold anything.
        resolution: cells per axis.
    """

    reach: float
    per_step: float
    columns: int
    thickness: Float[Tensor, " cells"]
    unit: float
    occupied: Bool[Tensor, " cells"]
    resolution: int


@dataclass(frozen=True)
class Drawn:
    """Samples of rays, those of a ray in order of distance; what follows a ray's last one is of no account.

    Attributes:
        distances: ``[rays, most]`` from the ray's origin, world units.
        lengths: ``[rays, most]`` what each stands for, world units, contracted.
        cells: ``[rays, most]`` in which they lie.
        counts: ``[rays]`` number of samples, 0 where nothing is occupied.
        candidates: ``[rays]`` number of steps between the near and the far limit.
    """

    distances: Float[Tensor, "rays most"]
    lengths: Float[Tensor, "rays most"]
    cells: Int[Tensor, "rays most"]
    counts: Int[Tensor, " rays"]
    candidates: Int[Tensor, " rays"]


def draw(
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    nears: Float[Tensor, " rays"],
    fars: Float[Tensor, " rays"],
    chances: Chances,
    amount: Amount,
    *,
    looked_at: Float[Tensor, " rays"],
    placed: Float[Tensor, " rays"] | None,
    together: int = 1,
) -> Drawn:
    """Draw samples from what the steps of rays are expected to show (Mildenhall et al. 2020, §5.2, from a grid).

    A step is drawn in proportion to the weight that rendering would give it by the grid's thickness, where
    transmittance falls slower than it does in truth, and a share of all samples goes to occupied steps alike. A sample
    stands for the length of its step over the expected number of samples there, so that sums of density over
    samples are right on average, whatever the grid says of occupied cells.

    Args:
        origins: in units of the scene's box.
        directions: change of the same per world unit.
        nears: nothing nearer is sampled, world units.
        fars: nothing farther is sampled, world units.
        chances: of the steps.
        amount: of the samples.
        looked_at: where in its steps each ray asks the grid, in [0, 1).
        placed: where the first sample lies in its share of the ray, in [0, 1), from which the others follow; None for
            the middles of all shares.
        together: rays side by side that ask the grid by one of them, as those of a pixel may, which see the same; the
            first one's ``looked_at`` chooses it, too. Each has samples of its own.
    """
    library = _library() if origins.device.type == "cpu" and origins.dtype == torch.float32 else None
    if library is None:
        places = {"looked_at": looked_at, "placed": placed, "together": together}
        return drawn_by_tensors(origins, directions, nears, fars, chances, amount, **places)
    rays, most = len(origins), amount.most
    drawn = Drawn(
        torch.empty(rays, most),
        torch.empty(rays, most),
        torch.empty(rays, most, dtype=torch.int32),
        torch.empty(rays, dtype=torch.int64),
        torch.empty(rays, dtype=torch.int64),
    )
    inputs = (origins, directions, nears, fars, chances.thickness, chances.occupied, looked_at)
    kept = [tensor.to(torch.bool if tensor.dtype == torch.bool else torch.float32).contiguous() for tensor in inputs]
    places = [tensor.data_ptr() for tensor in kept]
    placed = None if placed is None else placed.float().contiguous()
    library.finer_draw(
        *places[:4],
        chances.reach,
        chances.per_step,
        chances.columns,
        *places[4:6],
        chances.unit,
        chances.resolution,
        amount.shared,
        places[6],
        None if placed is None else placed.data_ptr(),
        rays,
        together,
        amount.per_spread,
        amount.fewest,
        most,
        *(t.data_ptr() for t in (drawn.distances, drawn.lengths, drawn.cells, drawn.counts, drawn.candidates)),
        torch.get_num_threads(),
    )
    return drawn


def drawn_by_tensors(
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    nears: Float[Tensor, " rays"],
    fars: Float[Tensor, " rays"],
    chances: Chances,
    amount: Amount,
    *,
    looked_at: Float[Tensor, " rays"],
    placed: Float[Tensor, " rays"] | None,
    together: int = 1,
) -> Drawn:
    """Draw samples as :func:`draw` does, by tensor functions, for every device."""
    rays = torch.arange(len(origins), device=origins.device)
    first = rays - rays % together
    chosen = looked_at[first] * (len(origins) - first).clamp(max=together)
    leader = first + chosen.long()
    steps = torch.arange(chances.columns, device=origins.device, dtype=origins.dtype)
    depth = distance_at((steps + chosen.frac()[:, None]) * chances.per_step, chances.reach)
    cell, per_progress = _place(origins[leader], directions[leader], depth, chances)
    inside = (depth >= nears[leader, None]) & (depth <= fars[leader, None])
    occupied = inside & chances.occupied[cell]
    own = chances.thickness[cell] * per_progress * (chances.per_step / chances.unit)
    behind = torch.where(occupied, own, 0.0).cumsum(1)
    behind = 1.0 / (1.0 + behind * (1.0 + 0.5 * behind))
    weight = -torch.nn.functional.pad(behind, (1, 0), value=1.0).diff(dim=1)
    number = occupied.sum(dim=1, keepdim=True)
    expected = (1.0 - amount.shared) / (1.0 - behind[:, -1:]).clamp(min=_FEWEST) * weight
    chance = torch.where(occupied, expected + amount.shared / number.clamp(min=1), 0.0)

    ends = chance.cumsum(1)
    spread = ends[:, -1].square() / chance.square().sum(dim=1).clamp(min=1e-30)
    samples = (amount.per_spread * spread).ceil().clamp(amount.fewest, amount.most)[:, None]
    numbers = torch.arange(amount.most, device=origins.device, dtype=origins.dtype)
    # Shares apart by the golden ratio fill [0, 1) evenly, whatever the first one is.
    within_share = 0.5 if placed is None else (placed[:, None] + numbers * _APART) % 1.0
    shares = (numbers + within_share).minimum(samples) / samples
    wanted = shares * ends[:, -1:]
    # The last occupied step takes what rounding leaves beyond it.
    last = (occupied * (steps + 1)).argmax(dim=1, keepdim=True)
    step = torch.minimum(torch.searchsorted(ends, wanted, right=True), last)
    own_chance = chance.gather(1, step)
    within = (wanted - (ends.gather(1, step) - own_chance)) / own_chance.clamp(min=1e-30)
    distances = distance_at((step + within.clamp(0.0, 1.0)) * chances.per_step, chances.reach)
    distances = torch.minimum(torch.maximum(distances, nears[:, None]), fars[:, None])
    cells, per_progress = _place(origins, directions, distances, chances)
    lengths = per_progress * chances.per_step * ends[:, -1:] / (samples * own_chance).clamp(min=1e-30)
    counts = torch.where(number > 0, samples, 0.0).squeeze(1).long()
    return Drawn(distances, lengths, cells, counts, inside.sum(dim=1))


def drawn_flat(
    drawn: Drawn, counts: Int[Tensor, " kept"]
) -> tuple[
    Int[Tensor, " samples"],
    Int[Tensor, " samples"],
    Float[Tensor, " samples"],
    Float[Tensor, " samples"],
    Int[Tensor, " samples"],
]:
    """Return the samples of leading rays, one after the other: ray, number on it, distance, length and cell of each.

    Args:
        drawn: of all rays.
        counts: of the rays that are kept.
    """
    rays, most = len(counts), drawn.distances.shape[1]
    library = _library() if drawn.distances.device.type == "cpu" and drawn.distances.dtype == torch.float32 else None
    if library is None:
        slots = torch.arange(most, device=counts.device).expand(rays, most)
        kept = (slots < counts[:, None]).flatten().nonzero().squeeze(-1)
        distances, lengths, cells = (
            values.flatten()[kept] for values in (drawn.distances, drawn.lengths, drawn.cells.long())
        )
        return kept // most, kept % most, distances, lengths, cells
    ends = counts.cumsum(0)
    total = int(ends[-1]) if rays else 0
    first = ends - counts
    ray_indices, slots, cells = torch.empty(3, total, dtype=torch.int64).unbind()
    distances, lengths = torch.empty(total), torch.empty(total)
    counts = counts.contiguous()
    drawn_values = [values.contiguous() for values in (drawn.distances, drawn.lengths, drawn.cells.to(torch.int32))]
    library.finer_drawn_flat(
        counts.data_ptr(),
        first.data_ptr(),
        rays,
        most,
        *(tensor.data_ptr() for tensor in drawn_values),
        *(tensor.data_ptr() for tensor in (ray_indices, slots, distances, lengths, cells)),
        torch.get_num_threads(),
    )
    return ray_indices, slots, distances, lengths, cells


class CellMeans:
    """Lets cells follow the mean density of what training has just seen in each.

    Args:
        share: of the way that a cell goes to the mean.
    """

    # A mean: the largest of several would take a cell that is dense in one place for a wall. Each cell has a sum, zero
    # again afterwards, so that a step costs as much as it has samples; sorting them takes longer. In double precision,
    # the order of a GPU's sums is of no account.

    def __init__(self, share: float) -> None:
        self._share = share
        self._sums: Tensor | None = None

    def follow(
        self,
        thickness: Float[Tensor, " cells"],
        seen_in: Int[Tensor, " samples"],
        density: Float[Tensor, " samples"],
        unit: float,
    ) -> None:
        """Move the thickness of cells, in place.

        Args:
            thickness: of a length of ``unit``.
            seen_in: cell of each sample.
            density: there, per world unit.
            unit: world units.
        """
        sums = self._sums
        if sums is None or sums.device != thickness.device or len(sums) != len(thickness):
            sums = self._sums = torch.zeros(len(thickness), 2, dtype=torch.float64, device=thickness.device)
        all_float = thickness.dtype == density.dtype == torch.float32 and thickness.is_contiguous()
        library = _library() if thickness.device.type == "cpu" and all_float else None
        if library is not None:
            seen_in, density = seen_in.contiguous(), density.contiguous()
            given = (seen_in.data_ptr(), density.data_ptr(), len(seen_in), unit, self._share)
            library.finer_follow(*given, sums.data_ptr(), thickness.data_ptr())
            return
        seen = density.double() * unit
        sums.index_add_(0, seen_in, torch.stack([seen, torch.ones_like(seen)], dim=1))
        total, number = sums[seen_in].unbind(dim=1)
        sums.index_fill_(0, seen_in, 0.0)
        known = thickness[seen_in]
        thickness[seen_in] = known + self._share * ((total / number).to(thickness.dtype) - known)


def _place(
    origins: Tensor, directions: Tensor, distances: Tensor, chances: Chances
) -> tuple[Int[Tensor, "rays places"], Float[Tensor, "rays places"]]:
    """Cells of places on rays, and the contracted length of a progress of 1 there."""
    positions = origins[:, None] + directions[:, None] * distances[..., None]
    along = ((contract(positions) + 1.0) * (0.5 * chances.resolution)).long().clamp_(0, chances.resolution - 1)
    cell = (along[..., 0] * chances.resolution + along[..., 1]) * chances.resolution + along[..., 2]
    farther = (distances / chances.reach).clamp(min=1.0).square()
    return cell, chances.reach * farther * shrinkage(positions)


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = building.build(Path(__file__).with_name("importance.cpp"), "importance")
    if isinstance(library, str):
        return None
    pointer, long, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    library.finer_draw.argtypes = [
        *[pointer] * 4,
        *[real, real, long, pointer, pointer, real, ctypes.c_int32, real],
        *[pointer] * 2,
        *[long, long, real, long, long],
        *[pointer] * 5,
        ctypes.c_int,
    ]
    library.finer_draw.restype = None
    library.finer_drawn_flat.argtypes = [pointer, pointer, long, long, *[pointer] * 8, ctypes.c_int]
    library.finer_drawn_flat.restype = None
    library.finer_follow.argtypes = [pointer, pointer, long, real, real, pointer, pointer]
    library.finer_follow.restype = None
    return library
