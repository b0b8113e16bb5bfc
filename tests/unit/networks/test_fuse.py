import pytest
import torch
from torch import nn

from lib.networks.config import NetworkConfig
from lib.networks.fuse import fuse
from lib.networks.resnet import StandardisedConv2d
from lib.networks.transunet import TransUNet


def drawn(network: nn.Module) -> nn.Module:
    """Norms that are no identities."""
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif value.is_floating_point() and value.ndim == 1:
            value.add_(torch.randn_like(value), alpha=0.3)
    return network.eval()


def test_a_batch_norm_becomes_scale_and_offset_of_the_kernels_before_it() -> None:
    layers = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0))
    kernel, norm = layers[0], layers[1]
    kernel.weight.data.fill_(3.0)  # 3 x + 1, then (. - 5) / 2 * 4 + 7 = 6 x - 1
    kernel.bias.data.fill_(1.0)
    norm.running_mean.fill_(5.0)
    norm.running_var.fill_(4.0)
    norm.weight.data.fill_(4.0)
    norm.bias.data.fill_(7.0)
    fuse(layers)
    assert (layers[0].weight.item(), layers[0].bias.item()) == (6.0, -1.0)
    assert isinstance(layers[1], nn.Identity)


@pytest.mark.parametrize("size", ["tiny", "vit-tiny"])
def test_a_fused_network_gives_the_same_logits_and_embedding(size: str) -> None:
    torch.manual_seed(0)
    network = drawn(TransUNet(NetworkConfig(size=size), in_channels=3, classes=4))
    images = torch.randn(2, 3, 32, 48)
    with torch.inference_mode():
        before = network.segment(images)
        after = fuse(network).segment(images)
    assert before[0].std() > 0.01
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)


def test_nothing_that_depends_on_kernels_alone_is_left_to_each_forward_pass() -> None:
    network = fuse(TransUNet(NetworkConfig(size="vit-tiny"), in_channels=1, classes=2))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    network = fuse(TransUNet(NetworkConfig(size="tiny"), in_channels=1, classes=2))
    assert not any(isinstance(module, StandardisedConv2d) for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.training


def test_a_batch_norm_without_running_statistics_stays() -> None:
    layers = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, track_running_stats=False))
    fuse(layers)
    assert isinstance(layers[1], nn.BatchNorm2d)


def test_folding_keeps_groups_dilation_and_the_kind_of_padding_of_a_convolution() -> None:
    torch.manual_seed(1)
    convolution = nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2, padding_mode="reflect")
    layers = drawn(nn.Sequential(convolution, nn.BatchNorm2d(6)))
    images = torch.randn(2, 4, 9, 8)
    with torch.inference_mode():
        before = layers(images)
        torch.testing.assert_close(fuse(layers)(images), before, atol=1e-5, rtol=1e-4)
    assert isinstance(layers[1], nn.Identity)
