"""Every exception of graphopt.

A message says what was found, what was wanted and what to do next. All derive from GraphoptError, so one
``except`` clause catches whatever this library raises on purpose.
"""


class GraphoptError(Exception):
    """Root of all errors that graphopt raises on purpose."""


class CaptureError(GraphoptError):
    """A model could not be turned into a program."""


class SpecError(GraphoptError, ValueError):
    """A pipeline's text, or an option of a pass, is wrong.

    Rendered with a caret under the offending character when the text and the position are known.

    Args:
        message: What was found, what was wanted, what to do next.
        text: The whole text that was read, or None where the fault is not in a text.
        position: Index into ``text`` of the first offending character, from 0 to ``len(text)``.
        option: Name of the option whose value is at fault, where the fault is in one.
    """

    def __init__(
        self, message: str, text: str | None = None, position: int | None = None, option: str | None = None
    ) -> None:
        super().__init__(message, text, position, option)
        self.message = message
        self.text = text
        self.position = position
        self.option = option

    def __str__(self) -> str:
        """Return the message, then the offending line with a caret under the fault."""
        if self.text is None or self.position is None:
            return self.message
        start = self.text.rfind("\n", 0, self.position) + 1
        line = self.text[start:].partition("\n")[0]
        return f"{self.message}\n  {line}\n  {' ' * (self.position - start)}^"


class VerificationError(GraphoptError):
    """A rewritten program does not compute what a law says it must."""


class PassError(GraphoptError):
    """A pass failed, and the pipeline stopped there."""


class PreconditionError(PassError):
    """A pass was given a program or a context it cannot work on."""


class PostconditionError(PassError):
    """A pass returned a result that breaks what it promises."""


class PlanError(GraphoptError):
    """A plan is malformed, or does not belong to the program it is applied to."""


class BudgetError(GraphoptError):
    """The budget asked for cannot be met.

    Args:
        message: What was found, what was wanted, what to do next.
        nearest: The nearest that can be reached, in the unit of the budget, where it is known.
        limits: What keeps it there, in words.
    """

    def __init__(self, message: str, nearest: float | None = None, limits: str = "") -> None:
        super().__init__(message, nearest, limits)
        self.message = message
        self.nearest = nearest
        self.limits = limits

    def __str__(self) -> str:
        """Return the message."""
        return self.message


class ExportError(GraphoptError):
    """A program could not be written, or what was written does not run to the same outputs."""


class ExportMismatchError(ExportError):
    """What was exported runs, and to other outputs."""


class ModuleRestoreError(GraphoptError):
    """A rewritten program could not be said in the user's own class."""


class RuntimeMismatchError(GraphoptError):
    """The devices of a partition do not agree on what they run, or one was sent a tensor it does not expect."""


class DeviceFailureError(GraphoptError):
    """A device of a partition failed, or no longer answers."""


class RegistrationError(GraphoptError):
    """A name, rule or pass was registered twice, or what was registered is not what it claims to be."""


class MissingExtraError(GraphoptError, ImportError):
    """An optional part is used whose packages are not installed.

    Args:
        extra: Name of the extra that brings the packages, such as ``"onnx"``.
    """

    def __init__(self, extra: str) -> None:
        super().__init__(extra)
        self.extra = extra

    def __str__(self) -> str:
        """Return the command that installs the extra."""
        return f"this part of graphopt needs packages that are not installed; run: pip install 'graphopt[{self.extra}]'"
