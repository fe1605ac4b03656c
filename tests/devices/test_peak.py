import types

import jax
import numpy as np
import pytest

from progrpo_jax.devices import peak, sharding


@pytest.mark.parametrize(
  ("kind", "known"),
  [
    ("TPU v5 lite", "TPU v5 lite"),
    ("TPU v5", "TPU v5"),
    ("NVIDIA H100 80GB HBM3", "NVIDIA H100"),
    ("NVIDIA H100 PCIe", "NVIDIA H100 PCIe"),
    ("NVIDIA A100-SXM4-40GB", "NVIDIA A100"),
    ("NVIDIA L40S", "NVIDIA L40S"),
  ],
)
def test_a_kind_is_known_by_its_first_words(kind, known):
  assert peak.of_kind(kind) == peak.PEAKS[known]


def test_other_kinds_are_measured(monkeypatch):
  assert peak.of_kind("cpu") is None and peak.of_kind("NVIDIA L400") is None
  monkeypatch.setattr(peak, "matmul_rate", lambda *args: 7.0)
  # However many devices the cores of a host are divided into.
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  assert peak.of_devices(mesh) == 7.0
  device = types.SimpleNamespace(platform="gpu", device_kind="unheard of")
  mesh = types.SimpleNamespace(size=4, devices=np.array([device] * 4))
  assert peak.of_devices(mesh) == 28.0
  device.device_kind = "TPU v4"
  assert peak.of_devices(mesh) == 4 * 275e12


def test_a_product_takes_time():
  assert 0 < peak.matmul_rate("float32", 64, 1) < 1e17
