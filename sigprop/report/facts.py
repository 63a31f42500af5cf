"""What verdicts are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xarray as xr

from sigprop.network import Fan, Law, Network, counted_fans
from sigprop.predict.probe import Probe
from sigprop.report.trail import Trail


@dataclass(frozen=True)
class Facts:
    """What the verdicts are drawn from."""

    net: Network
    probe: Probe
    trail: Trail
    fans: Mapping[str, Fan]
    laws: Mapping[str, Law]
    predicted: xr.Dataset

    @classmethod
    def of(cls, net: Network, predicted: xr.Dataset, *x: Any) -> Facts:
        rows = net.rows(*x)
        probe = Probe(net, *x)
        probe.found.update((r.value, float(size)) for r, size in zip(rows, predicted.log10_second_moment.values, strict=True))
        laws = dict(net.laws)
        return cls(net, probe, Trail(probe, rows), counted_fans(net, laws, *x), laws, predicted)
