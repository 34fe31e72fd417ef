"""Which donors entered which steps: what makes the bound on a donor's whole influence true."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from cellgap.errors import DonorOverContribution
from cellgap.stream.release._bounds import DonorBounds

Policy = Literal["raise", "drop"]


@dataclass(frozen=True, eq=False)
class Ledger:
    """Donors' entries of one statistic; secret, and never published, its counts included.

    Parameters
    ----------
    bounds
        How often a donor may enter.
    rows
        From the keyed hash of a donor (16 bytes) to its number of entries and its last step. A closed donor has all
        entries used up.
    dropped
        Contributions dropped so far, for the holder of the data alone.
    """

    bounds: DonorBounds
    rows: Mapping[bytes, tuple[int, int]] = field(default_factory=dict)
    dropped: int = 0

    def admit(
        self, donors: Sequence[bytes], closes: Collection[bytes], t: int, policy: Policy
    ) -> tuple[list[bool], "Ledger"]:
        """Return which donors may enter a step, and the ledger after it.

        Whether a donor may enter depends on its own history and nobody else's, so dropping keeps the guarantee.

        Parameters
        ----------
        donors
            Keyed hashes, each once.
        closes
            Donors that may not enter later steps.
        t
            The step.
        policy
            What happens to a donor that may not enter: "raise", or "drop" its contribution.

        Raises
        ------
        DonorOverContribution
            A donor may not enter and the policy is "raise", or more are left than `max_donors`.
        """
        admitted = [self._may_enter(donor, t) for donor in donors]
        if policy == "raise" and not all(admitted):
            raise DonorOverContribution(
                f"a donor is offered that may not enter this step: the bounds allow {self.bounds.max_steps} steps a "
                f"donor, at least {self.bounds.min_separation} apart, and none after it was closed. Leave it out, or "
                'step with policy="drop".'
            )
        # Which of too many donors were left out would depend on the others: there is no dropping here.
        if self.bounds.max_donors is not None and sum(admitted) > self.bounds.max_donors:
            raise DonorOverContribution(
                f"more donors are offered than the bounds allow in one step (max_donors={self.bounds.max_donors}): "
                "spread them over steps."
            )
        rows = dict(self.rows)
        for donor, enters in zip(donors, admitted, strict=True):
            if enters:
                rows[donor] = (rows.get(donor, (0, 0))[0] + 1, t)
        for donor in closes:
            rows[donor] = (self.bounds.max_steps, rows.get(donor, (0, 0))[1])
        return admitted, Ledger(self.bounds, rows, self.dropped + len(donors) - sum(admitted))

    def arrays(self, before: "Ledger | None" = None) -> dict[str, np.ndarray]:
        """Return the ledger for a file: hashes (donors, 16), entries and last steps (donors,), dropped ().

        Parameters
        ----------
        before
            Leaves out the rows that are the same there.
        """
        changed = {donor: row for donor, row in self.rows.items() if before is None or before.rows.get(donor) != row}
        return {
            "ledger.donors": np.frombuffer(b"".join(changed), np.uint8).reshape(-1, 16),
            "ledger.rows": np.array(list(changed.values()), np.int64).reshape(-1, 2),
            "ledger.dropped": np.array(self.dropped, np.int64),
        }

    def restored(self, arrays: Mapping[str, np.ndarray]) -> "Ledger":
        """Return the ledger with the rows of a file over its own."""
        donors = (row.tobytes() for row in arrays["ledger.donors"])
        rows = ((int(entries), int(last)) for entries, last in arrays["ledger.rows"])
        return Ledger(self.bounds, {**self.rows, **dict(zip(donors, rows, strict=True))}, int(arrays["ledger.dropped"]))

    def _may_enter(self, donor: bytes, t: int) -> bool:
        entries, last = self.rows.get(donor, (0, 0))
        return entries == 0 or (entries < self.bounds.max_steps and t - last >= self.bounds.min_separation)
