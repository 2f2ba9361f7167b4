import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from alnb.learn.nets import NETS, linear, resnet10, resnet18, resnet18_large, small


def parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(("outputs", "count"), [(10, 11_173_962), (4, 11_170_884), (100, 11_220_132), (200, 11_271_432)])
def test_resnet18_has_the_published_number_of_parameters(outputs: int, count: int) -> None:
    assert parameters(resnet18(outputs)) == count  # methods.md, section 3.1


def test_resnet18_keeps_the_published_sizes() -> None:
    maps = resnet18(10).eval().maps(torch.rand(1, 3, 32, 32))
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]


def test_resnet10_has_half_the_blocks() -> None:
    assert parameters(resnet10(10, width=24, stride=2).trunk) == 690_552
    maps = resnet10(10, width=24, stride=2).eval().maps(torch.rand(1, 3, 32, 32))
    assert [tuple(m.shape[1:]) for m in maps] == [(24, 16, 16), (48, 8, 8), (96, 4, 4), (192, 2, 2)]
    full, half = resnet18(10), resnet10(10)
    assert [len(stage) for stage in half.trunk] == [len(stage) - 1 for stage in full.trunk]


def test_small_is_small() -> None:
    assert 90_000 < parameters(small(10)) < 96_000


@settings(deadline=None, max_examples=12)
@given(st.sampled_from(sorted(NETS)), st.integers(1, 3), st.integers(8, 40), st.integers(8, 40), st.integers(2, 11))
def test_any_size_of_image_passes(name: str, batch: int, height: int, width: int, outputs: int) -> None:
    net, x = NETS[name](outputs).eval(), torch.rand(batch, 3, height, width)
    features = net.features(x)
    assert net(x).shape == (batch, outputs) and features.shape[0] == batch
    torch.testing.assert_close(net.head(features), net(x))


def test_normalisation_is_part_of_the_net() -> None:
    net, x = small(3).eval(), torch.rand(2, 3, 8, 8)
    before = net(x)
    net.mean.copy_(torch.tensor([0.1, 0.2, 0.3]))
    net.std.copy_(torch.tensor([0.5, 2.0, 1.0]))
    shaped = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 2.0, 1.0]).view(3, 1, 1)
    torch.testing.assert_close(net(x * shaped[1] + shaped[0]), before)


def test_a_net_without_stages_is_a_linear_classifier_of_features() -> None:
    torch.manual_seed(0)
    net, features = linear(10, width=400), torch.randn(3, 400)
    torch.testing.assert_close(net(features).detach(), features @ net.head.weight.detach().T)
    assert torch.equal(net.features(features), features) and 0.009 < float(net.head.weight.detach().std()) < 0.011


def test_resnet18_large_is_torchvisions() -> None:
    net, theirs = resnet18_large(1000).eval(), torchvision.models.resnet18().eval()
    assert parameters(net) == parameters(theirs) == 11_689_512
    # all but the normalisation of images and the counters of batch normalisation
    ours = [name for name, value in net.state_dict().items() if value.ndim and name not in ("mean", "std")]
    weights = [value for value in theirs.state_dict().values() if value.ndim]
    assert [net.state_dict()[name].shape for name in ours] == [value.shape for value in weights]
    net.load_state_dict(dict(zip(ours, weights, strict=True)), strict=False)
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(net(x), theirs(x), atol=1e-5, rtol=1e-4)
