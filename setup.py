"""What pyproject.toml can't say: folders outside timerxl/ that an installed timerxl holds.

timerxl.config.shipped_folder finds them in both places.
"""

from setuptools import find_packages, setup

SHIPPED = {
    "timerxl.recipes": "launch/recipes",
    "timerxl.regions": "launch/regions",
    "timerxl.accelerate_configs": "accelerate_configs",
    "timerxl.ds_configs": "ds_configs",
}

setup(
    packages=[*find_packages(include=["timerxl", "timerxl.*"]), *SHIPPED],
    package_dir=SHIPPED,
    package_data={name: ["*.yaml", "*.json"] for name in SHIPPED}
    | {"": ["py.typed", "templates/*", "layouts.yaml", "quantities.yaml"]},
)
