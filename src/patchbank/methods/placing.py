"""Where a method's patches lie, so that its map lies where the defect lies."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace

from patchbank.data import Lattice
from patchbank.data.lattice import EVEN
from patchbank.methods.calibrating import Calibrating
from patchbank.scoring.nearest import Placement


@dataclass(kw_only=True, eq=False)
class Placing(Calibrating):
    """A method whose patches lie where its network and its weights of the features put them."""

    _patches_lie: Lattice | None = dataclasses.field(init=False, repr=False, default=None)

    def _lattice(self) -> Lattice:
        """Of the patches in the inspected part: measured when it is first needed."""
        if not self.localizes:
            return EVEN
        if self._patches_lie is None:
            extractor = self._open()
            response = extractor.backbone.response(extractor.arrangement)
            cell = extractor.arrangement.cell(extractor.backbone.strides)
            self._patches_lie = Lattice(cell, response.displacement(self.option("sigma"), self._gain(response)))
        return self._patches_lie

    def _lie_as_learned(self) -> None:
        """As when the model was fitted, if its file says how: older ones do not."""
        if lie := self.training_.get("patches_lie"):
            self._patches_lie = Lattice.of(lie)

    def _placement(self) -> Placement:
        """Where patches of training images lie."""
        return replace(self._open().placement, lattice=self._lattice())
