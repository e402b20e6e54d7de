"""Known faults of the libraries in constraints.txt, by pip-audit: part of `make lint`.

Asks PyPI, then OSV. Where neither can be reached, or knows the libraries, it says so and passes:
the build itself must work offline. Exit code 1 where a library has a known fault.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 90.0


def audit(service: str) -> tuple[list[dict], str]:
    """(what pip-audit says of each library that the service knows, or why it says nothing)."""
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", service]
    command += ["--requirement", str(ROOT / "constraints.txt"), "--no-deps", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        found = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return [], f"{service} did not answer in {SECONDS:g} s"
    except (ValueError, KeyError):
        last = (done.stderr.strip() or "nothing").splitlines()[-1]
        return [], f"{service} can't be asked: {last[:160]}"
    known = [one for one in found if "skip_reason" not in one]
    return known, "" if known else f"{service} is reached and knows none of {len(found)} libraries"


def main() -> int:
    reasons = []
    for service in ("pypi", "osv"):
        known, reason = audit(service)
        if known:
            faults = [(one, fault) for one in known for fault in one["vulns"]]
            for one, fault in faults:
                fixed = ", ".join(fault["fix_versions"]) or "no release"
                print(f"{one['name']} {one['version']}: {fault['id']}, mended in {fixed}")
            print(f"pip-audit: {len(faults)} known faults in {len(known)} libraries ({service}).")
            return int(bool(faults))
        reasons.append(reason)
    print(f"pip-audit: skipped: {'; '.join(reasons)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
