"""The command's application, its exit statuses, and what it makes of errors."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import cyclopts
import jax
from rich.console import Console

from sigprop.errors import SigpropError

app = cyclopts.App(
    name="sigprop",
    help="Signal propagation at initialization of Flax models.",
    help_epilogue="Exit status of all commands: 0; 1 where something is wrong with what was asked about (a failed claim, a problem or a "
                  "finding under --strict, a broken installation); 2 for bad input or a model that cannot be predicted; 3 for a defect of "
                  "sigprop itself. Completion of commands and options in a shell: sigprop completion.",
)
app.register_install_completion_command(name="completion", help="Install completion for the shell in use.")
errors = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command on ``arguments`` (those of the process by default) and return its exit status."""
    try:
        status = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except (cyclopts.CycloptsError, SigpropError) as error:
        print(f"sigprop: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except jax.errors.JaxRuntimeError as error:
        print(f"sigprop: the model failed to run: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sigprop: interrupted", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        return 3
    return status if isinstance(status, int) else 0
