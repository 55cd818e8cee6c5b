"""What must stay quick imports nothing heavy."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "pydantic", "numpy", "rich", "timm", "torchvision"}


@pytest.mark.parametrize(
    "code",
    [
        "import metriclab",
        "import metriclab.registry",
        "import metriclab.registry; metriclab.registry.entries()",
        "from metriclab.cli import main; main(['--help'], standalone_mode=False)",
        "from metriclab.cli import main; main(['--version'], standalone_mode=False)",
        "from metriclab.cli import main; main(['list'], standalone_mode=False)",
        "from metriclab.cli import main; main(['list', 'loss', '--json'], standalone_mode=False)",
        "from metriclab.cli import main; main(['show', '--help'], standalone_mode=False)",
    ],
)
def test_heavy_packages_are_not_imported(code):
    report = f"import sys\n{code}\nprint('heavy:', sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"
