"""Tables, servers, files, networks, code repositories and monitoring: what services would tell is made up."""

from __future__ import annotations

import ipaddress
import math
from typing import Literal

from data_builders.tool_use.made_up import made_up


def count_rows(table: str, column: str, operator: Literal["=", "!=", "<", ">", "<=", ">="], value: float) -> int:
    """Count the rows of a table that meet a condition.

    Args:
        table: Name of the table.
        column: Name of the numeric column that is compared.
        operator: How the column is compared with the value.
        value: The number to compare with.
    """
    return made_up(0, 5000, table, column, operator, float(value))


def export_rows(source_table: str, fields: list[str], order_by: str = "id", descending: bool = False) -> str:
    """Export some columns of a table as a CSV file and give its path.

    Args:
        source_table: The table to export.
        fields: Columns that the file shall have, in this order.
        order_by: Column by which the rows are sorted. Default is "id".
        descending: Largest values first.
    """
    return f"/exports/{source_table}_{made_up(1000, 9999, fields, order_by, descending)}.csv"


def compress_file(path: str, method: str = "zip", delete_original: bool = False) -> dict:
    """Compress one file.

    Args:
        path: Full path of the file, e.g. "/tmp/a.csv".
        method: One of zip, gzip, xz.
        delete_original: Whether the file is deleted afterwards.
    """
    if method not in ("zip", "gzip", "xz"):
        raise ValueError(f"method {method!r} is not known; use zip, gzip or xz")
    ending = {"zip": "zip", "gzip": "gz", "xz": "xz"}[method]
    return {"archive": f"{path}.{ending}", "percent_saved": made_up(30, 92, path, method)}


def free_disk_gb(server: str, mount_point: str = "/") -> float:
    """Free space on a disk of a server, in gigabytes.

    Args:
        server: Name of the server, such as "web-03".
        mount_point: Where the disk is mounted. Default is "/".
    """
    return made_up(150, 9000, server, mount_point) / 10


def backups_that_fit(free_gb: float, backup_gb: float, reserve_gb: float = 0.0) -> int:
    """How many backups fit into free disk space.

    Args:
        free_gb: Free space in gigabytes.
        backup_gb: Size of one backup in gigabytes.
        reserve_gb: Gigabytes that must stay free. Default is 0.
    """
    return max(0, math.floor((free_gb - reserve_gb) / backup_gb))


def resolve_host(host_name: str, internal: bool = False) -> str:
    """Look up the IPv4 address of a host.

    Args:
        host_name: Fully qualified name of the host.
        internal: Ask the name server of the internal network.
    """
    return f"{'10.20.30' if internal else '192.0.2'}.{made_up(1, 254, host_name)}"


def subnet_of(address: str, prefix_length: int) -> dict:
    """The subnet in which an IPv4 address lies.

    Args:
        address: IPv4 address in dotted form.
        prefix_length: Length of the prefix in bits, 8 to 30.
    """
    network = ipaddress.ip_network(f"{address}/{prefix_length}", strict=False)
    return {"network": str(network), "broadcast": str(network.broadcast_address), "usable": network.num_addresses - 2}


def large_files(folder: str, larger_than_mb: int, extensions: list[str]) -> dict:
    """Find large files below a folder.

    Args:
        folder: Path of the folder where the search begins.
        larger_than_mb: Only files above this size in megabytes count.
        extensions: File name extensions without the dot, for instance ["log", "bak"].
    """
    files = made_up(1, 60, folder, sorted(extensions))
    return {"files": files, "total_mb": files * (larger_than_mb + made_up(1, 400, folder))}


def transfer_seconds(megabytes: float, megabits_per_second: float, overhead_percent: float = 0.0) -> float:
    """Seconds that it takes to send data over a line.

    Args:
        megabytes: Amount of data in megabytes (one megabyte is eight megabits).
        megabits_per_second: Speed of the line.
        overhead_percent: What the protocol adds to the data, in percent.
    """
    return round(megabytes * 8 * (1 + overhead_percent / 100) / megabits_per_second, 2)


def latest_release(repository: str, prereleases: bool = False) -> str:
    """Version number of the latest release of a code repository.

    Args:
        repository: Owner and name with a slash between them, like "acme/rocket".
        prereleases: Whether releases that are not final yet count too.
    """
    return ".".join(str(made_up(low, high, repository, prereleases, low)) for low, high in ((0, 6), (1, 24), (2, 15)))


def next_version(version: str, part: str) -> str:
    """Raise a semantic version by one step.

    Args:
        version: Version as three numbers, e.g. "1.4.2".
        part: What is raised: major, minor or patch.
    """
    if part not in ("major", "minor", "patch"):
        raise ValueError(f"part {part!r} is not known; use major, minor or patch")
    major, minor, patch = (int(number) for number in version.split("."))
    steps = {"major": (major + 1, 0, 0), "minor": (major, minor + 1, 0), "patch": (major, minor, patch + 1)}
    return ".".join(map(str, steps[part]))


def open_issues(project: str, label: str = "", assignee: str = "") -> dict:
    """Count the open issues of a project and name the oldest.

    Args:
        project: The project as owner/name.
        label: Only issues with this label.
        assignee: Only issues that are assigned to this user name.
    """
    return {"open": made_up(1, 140, project, label, assignee), "oldest": f"#{made_up(10, 4000, project, label)}"}


def create_alert(metric: str, above: float, notify: list[str], for_minutes: int = 5) -> str:
    """Raise an alert when a metric stays above a threshold; gives the rule's id.

    Args:
        metric: Name of the metric as it stands in the dashboard.
        above: Threshold.
        notify: Channels or people that are told.
        for_minutes: How long the metric must stay above it. Default is 5.
    """
    return f"rule-{made_up(1000, 9999, metric, above, notify, for_minutes)}"
