"""Our code runs, unpickles and unpacks nothing of a stranger: no call that could stands in it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
BUILTINS = {"eval", "exec", "compile", "__import__"}
MODULES = {
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"),
    *("runpy", "code", "codeop", "telnetlib", "xmlrpc", "imp"),
}
CALLS = {
    *("os.system", "os.popen", "yaml.load", "yaml.load_all", "yaml.full_load"),
    *("yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "tempfile.mktemp"),
}
METHODS = {"extractall", "read_pickle", "to_pickle", "execfile"}
FLAGS = {"shell": False, "allow_pickle": False, "trust_remote_code": False, "verify": True}
# The package's own names, which are no input: what `timerxl.__getattr__` may be asked for, and the
# modules of the table of commands.
ALLOWED = {("timerxl/__init__.py", "import_module"), ("timerxl/cli/__init__.py", "import_module")}


def unsafe(path: str, source: str) -> list[str]:
    """ "path:line: what" for every call and import that has no place in our code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        what = None
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names = names if isinstance(node, ast.Import) else [str(node.module)]
            what = next((name for name in names if name.partition(".")[0] in MODULES), None)
        elif isinstance(node, ast.Call):
            what = _unsafe_call(node)
        if what is not None and (path, what) not in ALLOWED:
            found.append(f"{path}:{node.lineno}: {what}")
    return found


def _unsafe_call(call: ast.Call) -> str | None:
    name = ast.unparse(call.func)
    last = name.rpartition(".")[2]
    flags = {word.arg: word.value for word in call.keywords}
    if name in BUILTINS | CALLS or last in METHODS or last == "import_module":
        return last if last == "import_module" else name
    if name == "torch.load" and ast.unparse(flags.get("weights_only", ast.Constant(0))) != "True":
        return "torch.load without weights_only=True"
    if name == "yaml.compose" and "SafeLoader" not in ast.unparse(call):
        return "yaml.compose without SafeLoader"
    for flag, good in FLAGS.items():
        if flag in flags and ast.unparse(flags[flag]) != str(good):
            return f"{name}({flag}=...)"
    return None


def test_nothing_unsafe_stands_in_our_code() -> None:
    paths = [p for folder in ("timerxl", "launch") for p in sorted((REPO / folder).rglob("*.py"))]
    assert len(paths) > 100
    found = [
        fault for p in paths for fault in unsafe(str(p.relative_to(REPO)), p.read_text("utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "exec(text)",
        "f = compile(text, 'x', 'exec')",
        "import pickle",
        "def f():\n    from pickle import loads",
        "import dill as d",
        "subprocess.run(line, shell=True)",
        "subprocess.Popen(line, shell=is_shell)",
        "os.system(line)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.unsafe_load(text)",
        "yaml.compose(text)",
        "numpy.load(path, allow_pickle=True)",
        "pandas.read_pickle(path)",
        "archive.extractall(folder)",
        "tempfile.mktemp()",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "requests.get(url, verify=False)",
        "importlib.import_module(name)",
    ],
)
def test_what_is_unsafe_is_seen(source: str) -> None:
    assert len(unsafe("timerxl/x.py", source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "torch.load(path, map_location='cpu', weights_only=True)",
        "yaml.safe_load(text)",
        "yaml.compose(text, yaml.SafeLoader)",
        "re.compile(pattern)",
        "torch.compile(model)",
        "np.load(path, mmap_mode='r')",
        "subprocess.run(['a', 'b'], shell=False)",
    ],
)
def test_what_is_safe_passes(source: str) -> None:
    assert unsafe("timerxl/x.py", source) == []
