"""Imports point one way: testnet -> (processes) -> peer -> protocol -> stdlib; libp2p and torch have one room each."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PURE = {
    "bisect", "collections", "dataclasses", "decimal", "enum", "functools", "hashlib", "heapq", "ipaddress", "itertools",
    "json", "math", "operator", "random", "re", "statistics", "struct", "typing", "unicodedata", "msgpack",
    "cryptography", "protocol",
}  # fmt: skip
LIBP2P_ROOMS = {f"peer/{name}.py" for name in ("host", "peer_stream", "transport", "hardening", "inbound")}
LIBP2P = {"libp2p", "multiaddr"}
TORCH = {"torch", "diffusers", "transformers", "safetensors", "accelerate"}


def imports(path):
    """(line, absolute module) of every import, wherever in the file it stands."""
    package = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level]) if node.level else ""
            yield node.lineno, ".".join(part for part in (base, node.module) if part)


def sources(*rooms):
    files = [path for room in rooms for path in sorted((ROOT / room).glob("**/*.py"))]
    return pytest.mark.parametrize("path", files, ids=[str(path.relative_to(ROOT)) for path in files])


def top(name):
    return name.split(".")[0]


@sources("protocol")
def test_protocol_is_pure(path):
    for line, name in imports(path):
        assert top(name) in PURE, f"{path.name}:{line} imports {name}"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"open", "print", "input", "exec", "eval"}, (
                f"{path.name}:{node.lineno}"
            )


@sources("protocol")
def test_dice_in_protocol_are_seeded(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
            assert node.attr == "Random", f"{path.name}:{node.lineno} uses the shared generator"


@sources("protocol/wire")
def test_wire_knows_no_policy(path):
    for line, name in imports(path):
        assert not name.startswith("protocol.policy"), f"{path.name}:{line}"


@sources("peer")
def test_libp2p_is_behind_one_door(path):
    if str(path.relative_to(ROOT)) in LIBP2P_ROOMS:
        return
    for line, name in imports(path):
        assert top(name) not in LIBP2P, f"{path.name}:{line} imports {name}"


@sources("peer")
def test_torch_lives_in_the_renderer(path):
    if path.is_relative_to(ROOT / "peer" / "renderer"):
        return
    for line, name in imports(path):
        assert top(name) not in TORCH, f"{path.name}:{line} imports {name}"


@sources("peer")
def test_peer_knows_no_testnet(path):
    for line, name in imports(path):
        assert top(name) not in {"testnet", "tests"}, f"{path.name}:{line} imports {name}"


@sources("testnet")
def test_the_testnet_drives_processes(path):
    for line, name in imports(path):
        assert top(name) not in {"peer", "tests"} | LIBP2P | TORCH, f"{path.name}:{line} imports {name}"


@sources("protocol", "peer", "testnet")
def test_a_swallowed_exception_has_no_place(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler) and (
            node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}
        ):
            assert not all(isinstance(line, ast.Pass) for line in node.body), f"{path.name}:{node.lineno}"
