"""What the packages export: it is there, documented, the same on both faces, and examples can be read by Python."""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap

import pytest

import tmem.agents.pager
import tmem.client
import tmem.client.aio
import tmem.client.link
import tmem.client.sync
import tmem.client.testing
import tmem.wire

WIRE = [importlib.import_module(f"tmem.wire.{found.name}") for found in pkgutil.iter_modules(tmem.wire.__path__)]
CLIENT = [tmem.agents.pager, tmem.client, tmem.client.aio, tmem.client.link, tmem.client.sync, tmem.client.testing]
FACED = ("Client", "Pool", "Batch")


def public(namespace: object) -> dict[str, object]:
    return {name: value for name, value in inspect.getmembers(namespace) if not name.startswith("_")}


def is_documented(value: object) -> bool:
    """A dataclass without a docstring is given its signature."""
    text = inspect.getdoc(value) or ""
    return bool(text) and not text.startswith(f"{getattr(value, '__name__', '')}(")


@pytest.mark.parametrize("module", [*CLIENT, *WIRE], ids=lambda module: module.__name__)
def test_every_exported_class_function_and_method_is_documented(module):
    assert is_documented(module)
    for name in module.__all__:
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        assert is_documented(value), name
        if inspect.isclass(value):
            for member, function in vars(value).items():
                if not member.startswith("_") and isinstance(function, (property, type(is_documented))):
                    assert is_documented(function), f"{name}.{member}"


@pytest.mark.parametrize("module", [*CLIENT, *WIRE], ids=lambda module: module.__name__)
def test_exports_are_sorted_and_named_once(module):
    assert list(module.__all__) == sorted(
        set(module.__all__), key=lambda name: (not name.isupper(), name[0].islower(), name)
    )


@pytest.mark.parametrize("name", FACED)
def test_both_faces_have_the_same_members_parameters_and_defaults(name):
    blocking, asynchronous = public(getattr(tmem.client, name)), public(getattr(tmem.client.aio, name))
    assert set(blocking) == set(asynchronous)
    for member, one in blocking.items():
        other = asynchronous[member]
        assert isinstance(one, property) == isinstance(other, property), member
        if callable(one) and callable(other):
            assert parameters(one) == parameters(other), member


@pytest.mark.parametrize("name", FACED)
def test_a_link_has_all_that_the_blocking_face_has(name):
    blocking, link = public(getattr(tmem.client, name)), public(getattr(tmem.client.link, name))
    assert set(blocking) <= set(link)
    for member, one in blocking.items():
        if callable(one):
            assert parameters(one) == parameters(link[member]), member


@pytest.mark.parametrize("name", FACED)
def test_only_the_asyncio_face_has_coroutines(name):
    assert not any(map(inspect.iscoroutinefunction, public(getattr(tmem.client, name)).values()))
    assert any(map(inspect.iscoroutinefunction, public(getattr(tmem.client.aio, name)).values()))


def parameters(function: object) -> list[tuple[str, object, object]]:
    assert callable(function)
    found = inspect.signature(function).parameters.values()
    return [(parameter.name, parameter.kind, parameter.default) for parameter in found]


@pytest.mark.parametrize("module", [tmem.client, tmem.client.aio], ids=lambda module: module.__name__)
def test_the_example_of_a_package_is_python(module):
    blocks = re.findall(r"(?:^    .*\n)+", module.__doc__, re.MULTILINE)
    example = compile(
        textwrap.dedent("".join(blocks)), "example", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    )
    used = {node.attr for node in ast.walk(example) if isinstance(node, ast.Attribute)}
    assert used <= {"client", "aio", "connect", *public(tmem.client.Client), *public(tmem.client.Pool)}
    assert {"connect", "create_pool", "put"} <= used
