"""What to install for a module that the base install lacks."""

from edgekern.errors import MissingExtraError

TOOLKIT_MODULES = frozenset({"typer", "rich", "click", "onnx", "onnx_ir", "onnxruntime", "tokenizers"})


def install(extra: str) -> str:
    """The command. Where edgekern itself came from does not matter: pip reads the extras of what is installed."""
    return f"pip install 'edgekern[{extra}]'"


def missing(what: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The error that says what ``what`` needs; what no extra brings is as it was."""
    if error.name is None or error.name.partition(".")[0] not in TOOLKIT_MODULES:
        return error
    told = MissingExtraError(f"{what} needs the module {error.name}; install it with: {install('toolkit')}")
    told.name = error.name
    return told
