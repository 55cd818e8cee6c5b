"""Packages of third parties: found by installation alone, kept apart, and harmless when broken."""

import sys
import tomllib
from pathlib import Path

import pytest

from metriclab.errors import PluginError, RecipeError
from metriclab.registry import UnknownName, entries, load_component
from metriclab.registry.registry import candidates, load_entry

GOOD = '''
def ellipse(*, margin: float = 0.25):
    """Ellipse."""
'''
DECORATED = f"from metriclab.registry import register\n@register('loss', 'ellipse'){GOOD}"


def refusal(kind, name):
    with pytest.raises(PluginError) as caught:
        load_component(kind, name)
    assert caught.value.exit_code == 3
    return str(caught.value)


def unknown(kind, name):
    with pytest.raises(UnknownName) as caught:
        load_component(kind, name)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("source", [GOOD, DECORATED], ids=["entry point alone", "with the decorator"])
def test_a_package_is_found_by_its_entry_point(install, source):
    install("my-ellipse", "[metriclab.loss]\nellipse = my_ellipse_module:ellipse\n", "2.3", my_ellipse_module=source)
    definition = load_component("loss", "ellipse")
    assert definition.entry.source == "my-ellipse 2.3"
    assert definition.parameters[0].default == 0.25
    assert load_component("loss", "ellipse") is load_component("loss", "My_Ellipse:ellipse") is definition


def test_a_component_is_found_through_a_name_that_its_package_exports(install):
    source = DECORATED.replace("'ellipse'", "'ring'").replace("def ellipse", "def inner") + "ring = inner\n"
    install("my-ring", "[metriclab.loss]\nring = my_ring_module:ring [extra]\n", my_ring_module=source)
    assert load_component("loss", "ring").factory.__name__ == "inner"


def test_a_decorated_component_without_entry_point_is_not_there(install):
    source = DECORATED + DECORATED.replace("'ellipse'", "'hidden'").replace("def ellipse", "def hidden")
    install("half", "[metriclab.loss]\nellipse = half_module:ellipse\n", half_module=source)
    load_component("loss", "ellipse")
    assert unknown("loss", "half:hidden").startswith("there is no loss 'half:hidden'")


def test_two_packages_with_one_name(install):
    for package in ("one-ellipse", "two-ellipse"):
        module = package.replace("-", "_") + "_module"
        install(package, f"[metriclab.loss]\nellipse = {module}:ellipse\n", **{module: GOOD})
    assert refusal("loss", "ellipse") == (
        "loss 'ellipse' is ambiguous: one-ellipse 1.0 and two-ellipse 1.0 bring one each\n"
        '  help: say which: name = "one-ellipse:ellipse" or name = "two-ellipse:ellipse"'
    )
    assert load_component("loss", "one-ellipse:ellipse").factory.__module__ == "one_ellipse_module"
    assert load_component("loss", "two-ellipse:ellipse").factory.__module__ == "two_ellipse_module"


def test_the_first_of_two_copies_on_the_path_counts(install):
    install("twice", "[metriclab.loss]\nellipse = twice_module:ellipse\n", "2.0", twice_module=GOOD)
    install("twice", "[metriclab.loss]\nellipse = twice_module:ellipse\n", "1.0")
    assert len([entry for entry in entries("loss") if entry.name == "ellipse"]) == 1


def test_a_built_in_component_cannot_be_replaced(install):
    source = DECORATED.replace("'ellipse'", "'nt-xent'")
    install("usurper", "[metriclab.loss]\nnt-xent = usurper_module:ellipse\n", "0.9", usurper_module=source)
    assert load_component("loss", "nt-xent").entry.package == "metriclab-toolkit"
    assert load_component("loss", "metriclab-toolkit:nt-xent").entry.package == "metriclab-toolkit"
    assert refusal("loss", "usurper:nt-xent") == (
        "loss 'nt-xent' of usurper 0.9 is refused: a built-in component has that name, and built-in ones cannot be "
        "replaced\n  help: its author must mend that; meanwhile do without it, or uninstall usurper"
    )
    [entry] = [entry for entry in candidates() if entry.package == "usurper"]
    with pytest.raises(PluginError, match="is refused"):
        load_entry(entry)
    assert entry not in entries()


@pytest.mark.parametrize(
    ("target", "source", "reason"),
    [
        ("broken_module:x", "import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("broken_module:x", "1 / 0", "ZeroDivisionError: division by zero"),
        ("broken_module:x", "raise SystemExit('bye')", "SystemExit: bye"),
        ("broken_module:x", "x = = 1", "SyntaxError: invalid syntax (broken_module.py, line 1)"),
        ("broken_module:x", "y = 1", "AttributeError: module 'broken_module' has no attribute 'x'"),
        ("broken_module", "y = 1", "AttributeError: module 'broken_module' has no attribute ''"),
        ("missing_module:x", "", "ModuleNotFoundError: No module named 'missing_module'"),
    ],
)
def test_a_package_that_cannot_be_imported_harms_only_who_names_it(install, target, source, reason):
    install("broken", f"[metriclab.loss]\nbroken-loss = {target}\n", "0.1", broken_module=source)
    assert "broken-loss" in [entry.name for entry in entries("loss")]
    assert load_component("loss", "nt-xent")
    text = f"loss 'broken-loss' of broken 0.1 ({target}) cannot be imported: {reason}"
    assert refusal("loss", "broken-loss").partition("\n")[0] == text


def test_ctrl_c_in_an_import_is_not_the_plugins_fault(install):
    install("slow", "[metriclab.loss]\nslow = slow_module:x\n", slow_module="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_component("loss", "slow")


@pytest.mark.parametrize("decorator", ["", "from metriclab.registry import register\n@register('loss', 'bad')\n"])
def test_a_bad_signature_names_parameter_component_and_package(install, decorator):
    source = f"{decorator}def bad(*, t: float = 'x'): ...\n"
    install("bad-one", "[metriclab.loss]\nbad = bad_one_module:bad\n", "3.1", bad_one_module=source)
    assert refusal("loss", "bad") == (
        "loss 'bad' of bad-one 3.1 (bad_one_module:bad) is refused: a default is refused: "
        "t of loss 'bad' must be float, not \"x\"\n  help: change the default or the type"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[metriclab.los]\nx = m:x\n", "there is no kind 'los'"),
        ("[metriclab.loss]\nMy_Loss = m:x\n", "names are made of a-z, 0-9 and - only"),
        ("[metriclab.loss]\nno equals sign\n", "its entry points cannot be read"),
    ],
)
def test_odd_entry_points_are_refused_and_still_listed_as_candidates(install, text, reason):
    install("odd", text)
    [entry] = [entry for entry in candidates() if entry.package == "odd"]
    assert entry not in entries()
    with pytest.raises(PluginError, match=reason):
        load_entry(entry)


def test_damaged_metadata_of_others_is_nobodys_business(install):
    site = install("unrelated", "[console_scripts]\nno equals sign\n")
    (site / "worse-1.0.dist-info").mkdir()
    (site / "worse-1.0.dist-info" / "entry_points.txt").write_bytes(b"\xff\xfe[metriclab.loss]")
    assert load_component("loss", "nt-xent")


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        ("loss", "nt-xnt", "there is no loss 'nt-xnt'\n  help: did you mean 'nt-xent'?"),
        (
            "views",
            "zzz",
            "there is no views 'zzz'\n  help: there are multi-crop, plain, randaugment, ",
        ),
        ("miner", "zzz", "there is no miner 'zzz'\n  help: there are batch-hard, distance-weighted, "),
        (
            "loss",
            "absent:ellipse",
            "there is no loss 'absent:ellipse'\n  help: `metriclab plugins` lists the packages that bring components",
        ),
        (
            "loss",
            "os.system",
            "'os.system' cannot name any loss\n  help: names are made of a-z, 0-9 and -, "
            "with the distribution and a colon before them where two share one",
        ),
        ("loss", "a:b:c", "'a:b:c' cannot name any loss"),
        ("loss", "", "'' cannot name any loss"),
        ("loss", "nt-xent\n", "'nt-xent\n' cannot name any loss"),
    ],
)
def test_unknown_names(kind, name, text):
    assert unknown(kind, name).startswith(text)


def test_unknown_kinds():
    with pytest.raises(RecipeError, match=r"there is no kind 'los'\n  help: did you mean 'loss'\?"):
        entries("los")
    with pytest.raises(RecipeError, match="there is no kind 'zzz'\n  help: there are dataset, views, "):
        load_component("zzz", "x")


def test_the_circle_package_of_this_repository(install, monkeypatch):
    folder = Path(__file__).parents[2] / "plugins" / "metriclab-circle"
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    [(name, target)] = project["entry-points"]["metriclab.loss"].items()
    monkeypatch.setattr(sys, "path", [str(folder / "src"), *sys.path])
    install("metriclab-circle", f"[metriclab.loss]\n{name} = {target}\n", project["version"])
    definition = load_component("loss", "circle")
    assert definition.entry.source == "metriclab-circle 0.1.0"
    assert definition.snippet() == '[loss]\nname = "circle"\nmargin = 0.25\nscale = 256.0\n'
    assert definition.paper.startswith("Sun et al.")


def test_a_function_that_was_renamed_is_told_with_the_line_of_pyproject(install):
    source = DECORATED.replace("def ellipse", "def oval")
    install("my-ellipse", "[metriclab.loss]\nellipse = my_ellipse_module:ovall\n", my_ellipse_module=source)
    assert refusal("loss", "ellipse") == (
        "loss 'ellipse' of my-ellipse 1.0 (my_ellipse_module:ovall) cannot be imported: AttributeError: module "
        "'my_ellipse_module' has no attribute 'ovall'\n"
        '  help: its pyproject.toml says [project.entry-points."metriclab.loss"] ellipse = "my_ellipse_module:ovall": '
        "write there what it is called now and install the package again; did you mean 'oval'?"
    )
