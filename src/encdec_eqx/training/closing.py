"""The last lines about a run: how it ended, which step was best, what the saved model makes of some examples.

Knows what a run came to; must not know where the lines are shown.
"""

from collections.abc import Iterator

from .._quoting import printable
from .fitting import FitResult

_LONGEST = 300


def closing_lines(result: FitResult) -> Iterator[str]:
    """The lines, without line ends."""
    yield f"{result.ending} after {result.step} steps; the model is in {printable(result.output_dir / 'model')}"
    if result.best_step is not None:
        scores = "  ".join(f"{name} {value:.4g}" for name, value in (result.best_values or {}).items())
        yield f"best by {result.best_by}: step {result.best_step} of {result.step}  {scores}"
        yield _which(result)
    if result.predictions:
        yield "what it makes of the first validation examples:"
    for one in result.predictions:
        yield f"  source      {_shown(one.source)}"
        yield f"  prediction  {_shown(one.text)}"
        yield f"  reference   {' | '.join(map(_shown, one.references))}"


def _which(result: FitResult) -> str:
    """Which step's parameters the model has, and how to get the best ones if it has others."""
    if result.model_step == result.best_step:
        return f"the model is that of step {result.model_step}, the best"
    return (
        f"the model is that of step {result.model_step}, the last; load_best_model_at_end = true keeps the best "
        "(with --resume, it is taken from its checkpoint)"
    )


def _shown(text: str) -> str:
    return printable(text, _LONGEST)
