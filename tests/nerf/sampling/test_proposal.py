"""Proposal networks: the segments that they choose, and what they learn."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from torch import Tensor
from torch.nn import functional as F

from finer_nerfstudio.errors import InputError
from finer_nerfstudio.nerf.compositing import ray_weights
from finer_nerfstudio.nerf.field import FinerFieldConfig
from finer_nerfstudio.nerf.model import FinerModel, FinerModelConfig
from finer_nerfstudio.nerf.radiance import Diverged, world_to_box
from finer_nerfstudio.nerf.sampling.contraction import far_away, shrinkage
from finer_nerfstudio.nerf.sampling.proposal import ProposalSampler
from finer_nerfstudio.nerf.sampling.sampler import RayLimits

BOX = torch.tensor([[-1.0, -2.0, -0.5], [1.0, 1.0, 1.5]])


def make_sampler(*, unbounded: bool, steps: int = 64) -> ProposalSampler:
    torch.manual_seed(0)
    return ProposalSampler(BOX, unbounded=unbounded, steps=steps)


def rays(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Through the box from outside."""
    generator = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    targets = BOX[0] + torch.rand(count, 3, generator=generator) * (BOX[1] - BOX[0])
    return targets - 4.0 * directions, directions


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("unbounded", [False, True])
def test_segments_follow_each_other_within_their_limits(unbounded: bool, training: bool) -> None:
    sampler = make_sampler(unbounded=unbounded).train(training)
    origins, directions = rays(50)
    segments = sampler.march(origins, directions, RayLimits(near_plane=0.05))
    assert segments.counts.tolist() == [16] * 50
    assert segments.slots.tolist() == list(range(16)) * 50
    assert (segments.lengths >= 0).all()
    frustums = segments.samples[-1].frustums
    starts, ends = frustums.starts.squeeze(-1), frustums.ends.squeeze(-1)
    middles = origins[segments.ray_indices] + segments.distances[:, None] * directions[segments.ray_indices]
    scale = shrinkage(world_to_box(middles, BOX)) if unbounded else torch.ones(len(middles))
    torch.testing.assert_close(segments.distances, 0.5 * (starts + ends).flatten())
    torch.testing.assert_close(segments.lengths, (ends - starts).flatten() * scale, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(starts[:, 1:], ends[:, :-1], rtol=1e-4, atol=1e-4)
    assert starts.min() >= 0.05 - 1e-4
    if unbounded:
        assert sampler.reach is not None
        assert ends.max() <= far_away(sampler.reach)
    else:
        assert ((middles >= BOX[0] - 1e-3) & (middles <= BOX[1] + 1e-3)).all()
    limited = sampler.march(
        origins, directions, RayLimits(nears=torch.full((50, 1), 3.5), fars=torch.full((50, 1), 4.5))
    )
    seen = limited.lengths > 0
    assert limited.distances[seen].min() >= 3.5
    assert limited.distances[seen].max() <= 4.5


def test_rays_that_miss_a_bounded_scene_have_segments_of_no_length() -> None:
    segments = make_sampler(unbounded=False).march(torch.tensor([[5.0, 5.0, 5.0]]), torch.tensor([[0.0, 0.0, 1.0]]))
    assert not segments.lengths.any()


def test_the_sample_budget_keeps_leading_rays() -> None:
    sampler = make_sampler(unbounded=False)
    origins, directions = rays(50)
    segments = sampler.march(origins, directions, RayLimits(max_samples=100))
    assert segments.num_rays == 100 // 16
    assert segments.distances.shape[0] <= 100
    assert sampler.march(origins, directions, RayLimits(max_samples=3)).num_rays == 1
    assert sampler.eval().march(origins, directions, RayLimits(steps=128)).counts.tolist() == [32] * 50


@pytest.mark.parametrize("unbounded", [False, True])
def test_proposals_learn_where_a_wall_is(unbounded: bool) -> None:
    """A wall of half a unit's thickness, in the box or far outside of it; nearly all segments end up at its face."""
    place = 30.0 if unbounded else 0.5
    sampler = make_sampler(unbounded=unbounded, steps=48)
    optimizer = torch.optim.Adam(sampler.parameters(), lr=1e-2)
    origins = torch.tensor([-0.9, -0.5, 0.5]) + 0.2 * (torch.rand(16, 3, generator=torch.Generator().manual_seed(1)))
    directions = torch.tensor([1.0, 0.0, 0.0]).expand(16, 3)

    def weights_of(segments: object) -> Tensor:
        x = origins[segments.ray_indices, 0] + segments.distances  # pyright: ignore[reportAttributeAccessIssue]
        thickness = (20.0 * max(1.0, place) ** 2) * (x > place) * segments.lengths  # pyright: ignore[reportAttributeAccessIssue]
        return ray_weights(thickness, segments.ray_indices, segments.counts)  # pyright: ignore[reportAttributeAccessIssue]

    def near_the_face() -> float:
        segments = sampler.eval().march(origins, directions)
        x = origins[segments.ray_indices, 0] + segments.distances
        sampler.train()
        return float(((x > 0.8 * place - 0.1) & (x < 1.3 * place + 0.1)).float().mean())

    before = near_the_face()
    for step in range(80):
        sampler.before_step(15 * step)
        segments = sampler.march(origins, directions)
        loss = segments.losses(weights_of(segments))["interlevel_loss"]
        optimizer.zero_grad()
        if loss.requires_grad:  # not in every step
            loss.backward()
            optimizer.step()
        sampler.after_step(step)
    assert near_the_face() > max(0.5, 1.5 * before)


def make_model(**options: object) -> FinerModel:
    torch.manual_seed(0)
    config = FinerModelConfig(
        field=FinerFieldConfig(method="finer-sine", width=16), samples_per_ray=32, sampler="proposal"
    )
    for name, value in options.items():
        setattr(config, name, value)
    return FinerModel(config, scene_box=SceneBox(aabb=BOX), num_train_data=4)


def bundle(count: int) -> RayBundle:
    origins, directions = rays(count)
    return RayBundle(origins=origins, directions=directions, pixel_area=torch.ones(count, 1), metadata={})


@pytest.mark.parametrize("unbounded", ["no", "yes"])
def test_field_and_proposals_learn_together_each_in_a_group_of_their_own(unbounded: str) -> None:
    model = make_model(unbounded=unbounded, max_samples_per_batch=256).train()
    groups = model.get_param_groups()
    assert set(groups) == {"fields", "proposal_networks"} | ({"feature_grid"} if unbounded == "yes" else set())
    outputs = model.get_outputs(bundle(64))
    assert outputs["num_samples_per_batch"] == 256
    losses = model.get_loss_dict(outputs, {"image": torch.rand(64, 3)})
    assert set(losses) == {"rgb_loss", "interlevel_loss", "distortion_loss"}
    torch.stack(list(losses.values())).sum().backward()
    for name, parameters in groups.items():
        assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in parameters), name
        assert any(bool(p.grad.any()) for p in parameters if p.grad is not None), name


def test_a_picture_takes_no_training_from_the_proposals() -> None:
    model = make_model().eval()
    assert model.proposals is not None
    model.proposals.sampler._steps_since_update = 3
    random_state = torch.get_rng_state()
    with torch.no_grad():
        first, second = (model.get_outputs(bundle(20))["rgb"] for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert model.proposals.sampler._steps_since_update == 3
    assert torch.equal(torch.get_rng_state(), random_state)


def test_state_of_the_other_sampler_is_refused_by_name() -> None:
    state = make_model(sampler="occupancy").state_dict()
    with pytest.raises(InputError, match="sampler occupancy"):
        make_model().load_state_dict(state)
    model = make_model()
    other = make_model()
    for parameter in other.parameters():
        parameter.data.add_(0.1)
    model.load_state_dict(other.state_dict())
    assert model.proposals is not None
    assert other.proposals is not None
    for own, loaded in zip(model.proposals.parameters(), other.proposals.parameters(), strict=True):
        assert torch.equal(own, loaded)


def test_a_field_that_diverged_ends_training_with_a_sentence() -> None:
    model = make_model()
    next(model.field.parameters()).data.fill_(float("nan"))

    def before_step() -> None:
        for callback in model.get_training_callbacks(None):  # pyright: ignore[reportArgumentType]
            callback.run_callback_at_location(16, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)

    with pytest.raises(Diverged, match="weights are NaN or infinite"):
        before_step()
