import math

import torch
from torch import nn

import alnb
from alnb.learn.nets import Net
from alnb.learn.pretexts import simsiam
from alnb.learn.pretrain import PRETEXTS, build


def net_of(width: int = 4, outputs: int = 8) -> Net:
    pretext = alnb.pretrain.replace(PRETEXTS["simsiam"], outputs=outputs)
    return build(alnb.Learner(lambda n: alnb.nets.small(n, width), alnb.Recipe()), pretext, 0)


def test_the_loss_is_that_of_the_paper_written_naively() -> None:
    net, x = net_of().eval(), torch.rand(6, 3, 8, 8)
    head = net.head
    assert isinstance(head, simsiam.SimSiamHead)
    losses = simsiam.simsiam_loss(net, x).tolist()
    for i in range(3):
        z1, z2 = (head.projector(net.features(x[k : k + 1]))[0].tolist() for k in (i, i + 3))
        p1, p2 = (head.predictor(torch.tensor([z]))[0].tolist() for z in (z1, z2))
        assert math.isclose(losses[i], negative_cosine(p1, z2) / 2 + negative_cosine(p2, z1) / 2, abs_tol=1e-5)
    assert len(losses) == 3 and max(map(abs, losses)) <= 1


def negative_cosine(p: list[float], z: list[float]) -> float:
    norms = math.sqrt(sum(v * v for v in p)) * math.sqrt(sum(v * v for v in z))
    return -sum(a * b for a, b in zip(p, z, strict=True)) / norms


def test_no_gradient_flows_through_the_projections() -> None:
    def gradients(stop: bool) -> list[torch.Tensor]:
        net, x = net_of().train(), torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        head = net.head
        assert isinstance(head, simsiam.SimSiamHead)
        z1, z2 = head.projector(net.features(x[:4])), head.projector(net.features(x[4:]))
        p1, p2 = head.predictor(z1), head.predictor(z2)
        t1, t2 = (z1.clone().detach(), z2.clone().detach()) if stop else (z1, z2)
        cosine = nn.CosineSimilarity(dim=1)
        (-(cosine(p1, t2) + cosine(p2, t1)) / 2).mean().backward()
        return [p.grad for p in net.parameters() if p.grad is not None]

    net, x = net_of().train(), torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    simsiam.simsiam_loss(net, x).mean().backward()
    mine = [p.grad for p in net.parameters() if p.grad is not None]
    assert len(mine) == len(list(net.parameters()))  # of trunk, projector and predictor
    for gradient, expected in zip(mine, gradients(stop=True), strict=True):
        torch.testing.assert_close(gradient, expected)
    assert any(not torch.allclose(a, b) for a, b in zip(mine, gradients(stop=False), strict=True))


def test_batch_normalisation_sees_one_view_at_a_time() -> None:
    net, x = net_of().train(), torch.rand(8, 3, 8, 8)
    x[4:] = x[4:] * 0.1
    head = net.head

    def distances(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        sides = (first, second), (second, first)
        return -sum(torch.cosine_similarity(head.predictor(p), z.detach(), dim=1) for p, z in sides) / 2

    apart = distances(head(net.features(x[:4])), head(net.features(x[4:])))
    mixed = distances(*head(net.features(x)).chunk(2))
    torch.testing.assert_close(simsiam.simsiam_loss(net, x), apart)
    assert not torch.allclose(apart, mixed, atol=1e-3)


def test_sizes_are_those_of_the_paper() -> None:
    head = simsiam.SimSiamHead(512)
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in head.named_children()}
    assert count == {"projector": 512 * 2048 + 2 * 2048 + 2048 * 2048, "predictor": 2_100_224}


def test_spread_tells_scattered_from_collapsed() -> None:
    net, x = net_of(outputs=64), torch.rand(200, 3, 8, 8)
    net.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert 0.7 < simsiam.spread(net, x) < 1.3
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with torch.no_grad():
        for parameter in net.trunk.parameters():
            parameter.zero_()
    assert simsiam.spread(net, x) < 0.1
