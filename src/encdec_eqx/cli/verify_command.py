"""`encdec-eqx verify`: a table of what this device computes, beside what it should be."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..verification import Check, Verification

DESCRIPTION = (
    "Computes tiny models on the default device and compares with numbers of torch in float64 that travel with the "
    "package: logits, losses, gradients, greedy and beam search. With MODEL, its logits are compared with those of "
    "torch, which must be installed with transformers. Exit status 1 if a number is wrong."
)

_COLUMNS = "{:<20} {:<15} {:<17} {:>9} {:>10}  {}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="folder or Hub id of a pair or a whole checkpoint, to be run in torch too",
    )


def run(chosen: argparse.Namespace) -> int:
    """Verify; 1 if a number is wrong."""
    from ..verification import device_in_words, verify_device, verify_model

    print(f"device: {device_in_words()}\n", flush=True)
    rows = _Rows()
    found = verify_device(report=rows.show) if chosen.model is None else verify_model(chosen.model, report=rows.show)
    print(f"\n{_conclusion(found)}")
    return 0 if found.passed else 1


class _Rows:
    """The table, begun with its first row: what is wrong with the model is told without one."""

    def __init__(self) -> None:
        self._begun = False

    def show(self, check: "Check") -> None:
        """Print a row."""
        if not self._begun:
            print(_COLUMNS.format("model", "what", "setting", "error", "tolerance", ""))
            self._begun = True
        print(_row(check), flush=True)


def _row(check: "Check") -> str:
    error, tolerance = (f"{value:.1e}" if check.tolerance else f"{value:g}" for value in (check.error, check.tolerance))
    outcome = "ok" if check.passed else "WRONG"
    name = check.model if len(check.model) <= 20 else f"…{check.model[-19:]}"
    return _COLUMNS.format(name, check.what, check.setting, error, tolerance, outcome)


def _conclusion(found: "Verification") -> str:
    wrong = [check for check in found.checks if not check.passed]
    if not wrong:
        return f"passed: {len(found.checks)} checks against {found.reference}."
    return (
        f"FAILED: {len(wrong)} of {len(found.checks)} checks against {found.reference}. This device, its driver or its "
        "version of jax computes wrong numbers: do not trust what it trains or generates. JAX_PLATFORMS=cpu encdec-eqx "
        "verify tells whether the CPU is right."
    )
