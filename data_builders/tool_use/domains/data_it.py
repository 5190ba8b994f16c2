"""Tables, servers, files, networks, code repositories and monitoring: what services would tell is made up."""

from __future__ import annotations

import ipaddress
import math
from typing import Literal

from data_builders.tool_use.dialogs.samplers import decimal, one_of, several, whole
from data_builders.tool_use.dialogs.task import Chain, Query, Task, made_up


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


TABLES = (
    "orders", "invoices", "customers", "shipments", "tickets", "sensors", "employees", "payments", "sessions",
    "returns")  # fmt: skip
COLUMNS = ("price", "quantity", "age", "discount", "weight_kg", "duration_s", "rating", "balance", "temperature")
METRICS = (
    "cpu_load", "queue_length", "error_rate", "p95_latency_ms", "disk_usage", "open_sockets", "memory_gb",
    "failed_logins")  # fmt: skip
FOLDERS = (
    "/var/log", "/home/build", "/srv/media", "/data/archive", "/opt/app/cache", "/mnt/share", "/backup/daily",
    "/tmp/render")  # fmt: skip
table = one_of(*TABLES)
column = one_of(*COLUMNS)
server = one_of(*(f"{kind}-{n:02d}" for kind in ("web", "db", "cache", "mail", "build", "edge") for n in range(1, 25)))
host = one_of(*(f"{a}.{b}.example" for a in ("api", "shop", "wiki", "git", "vpn") for b in ("acme", "norda", "lumen")))
repo = one_of(
    *(
        f"{a}/{b}"
        for a in ("kiteworks", "norda", "bluefern", "oakline", "zed-labs")
        for b in ("parser", "scheduler", "map-tiles", "ledger", "chat-ui", "firmware")
    )
)
path = one_of(
    *(f"{a}/{b}.{c}" for a in FOLDERS for b in ("report", "trace_07", "dump", "users") for c in ("csv", "sql"))
)
ip = one_of(*(f"{a}.{b}.{c}.{b + 9}" for a in (10, 172, 198) for b in range(16, 190, 23) for c in (0, 7, 51, 140)))
version = one_of(*(f"{a}.{b}.{c}" for a in range(6) for b in (0, 3, 9, 12) for c in (0, 1, 7, 19)))
comparison = one_of((">", "above"), ("<", "below"), ("=", "equal to"), (">=", "at least"), ("<=", "at most"))

TASKS = (
    Task(
        count_rows,
        arguments={"table": table, "column": column, "operator": comparison, "value": decimal(1, 500)},
        queries=(
            "How many rows of {table} have a {column} {operator} {value}?",
            "Count the rows in the table {table} where {column} is {operator} {value}.",
            "{table}: count, {column} {operator} {value}",
            "For my report I need to know in how many {table} the {column} is {operator} {value}.",
        ),
        answers=("{result} rows match.", "There are {result} such rows."),
        names=("rows_matching", "table_count_where", "query_count"),
        parameters={"table": ("table_name", "relation"), "column": ("field",), "operator": ("comparison", "op"),
                    "value": ("threshold", "compared_to")},
    ),
    Task(
        export_rows,
        arguments={"source_table": table, "fields": several(column, 2, 4), "order_by": column},
        queries=(
            "Export the columns {fields} of {source_table}.",
            "I need a CSV of {source_table} with {fields}, sorted by {order_by}.",
            Query(
                "Dump {source_table}: fields {fields}, ordered by {order_by}, largest first", fixed={"descending": True}
            ),
            "Please make a file out of the table {source_table}. The columns are {fields}.",
        ),
        answers=("The file is {result}.", "Exported to {result}"),
        names=("table_to_csv", "dump_columns", "save_query_result"),
        parameters={"source_table": ("table", "from_table"), "fields": ("columns",), "order_by": ("sort_column",)},
    ),
    Task(
        compress_file,
        arguments={"path": path, "method": one_of("zip", "gzip", "xz")},
        queries=(
            "Compress {path}.",
            "Pack {path} with {method}, please.",
            Query("Our disk is almost full. Compress {path} with {method} and throw the original away.",
                  fixed={"delete_original": True}),
            "file {path}, method {method}",
        ),
        answers=("The archive is {archive}, {percent_saved}% smaller.", "Packed into {archive}."),
        names=("pack_file", "make_archive", "shrink_file"),
        parameters={"path": ("file_path", "file"), "method": ("algorithm", "archive_format")},
        slips={"method": (("gz", "gzip"), ("lzma", "xz"), ("pkzip", "zip"))},
    ),
    Task(
        free_disk_gb,
        arguments={"server": server, "mount_point": one_of("/data", "/home", "/var", "/srv", "/backup")},
        queries=(
            "How much disk space is left on {server}?",
            "Free gigabytes on {server}, mount point {mount_point}",
            "{server} is complaining again. How much room does {mount_point} have there?",
            "Check the free disk space of {server} for me, please.",
        ),
        answers=("{result} GB are free.", "There are {result} gigabytes left."),
        names=("disk_space_left", "storage_free", "check_disk"),
        parameters={"server": ("host", "machine"), "mount_point": ("mount", "volume")},
    ),
    Task(
        backups_that_fit,
        arguments={"free_gb": decimal(100, 2000), "backup_gb": decimal(2, 60), "reserve_gb": whole(5, 50)},
        queries=(
            "How many backups of {backup_gb} GB fit into {free_gb} GB?",
            "{free_gb} GB free, {reserve_gb} GB must stay free, one backup takes {backup_gb} GB. How many?",
            "A nightly backup takes {backup_gb} gigabytes and we have {free_gb}. For how many nights is that enough?",
            "backups: size {backup_gb} GB / space {free_gb} GB / reserve {reserve_gb} GB",
        ),
        answers=("{result} backups fit.", "There is room for {result}."),
        names=("backup_capacity", "count_backups", "how_many_backups"),
        parameters={"free_gb": ("space_gb", "available"), "backup_gb": ("size_gb",), "reserve_gb": ("keep_free",)},
    ),
    Task(
        resolve_host,
        arguments={"host_name": host},
        queries=(
            "What is the IP address of {host_name}?",
            "Resolve {host_name}.",
            Query("Which address does {host_name} have in our internal network?", fixed={"internal": True}),
            "I have to put {host_name} into the firewall and need its address, please.",
        ),
        answers=("It has the address {result}.", "{result}"),
        names=("dns_lookup", "address_of_host", "host_to_ip"),
        parameters={"host_name": ("hostname", "fqdn"), "internal": ("inside", "private_dns")},
    ),
    Task(
        subnet_of,
        arguments={"address": ip, "prefix_length": whole(9, 29)},
        queries=(
            "In which /{prefix_length} network is {address}?",
            "Subnet of {address} with a prefix of {prefix_length} bits",
            "Tell me network and broadcast address for {address}/{prefix_length}.",
            "My printer has the address {address} and the prefix length is {prefix_length}. How many hosts fit in "
            "there?",
        ),
        answers=("It is in {network} (broadcast {broadcast}).", "The network {network} has {usable} usable addresses."),
        names=("network_for_ip", "subnet_details", "cidr_info"),
        parameters={"address": ("ip", "ip_address"), "prefix_length": ("mask_bits", "prefix")},
    ),
    Task(
        large_files,
        arguments={"folder": one_of(*FOLDERS), "larger_than_mb": whole(20, 900),
                   "extensions": several(one_of("log", "bak", "mp4", "iso", "tmp", "sql", "tar", "csv"), 1, 3)},
        queries=(
            "Find files over {larger_than_mb} MB below {folder} with the extensions {extensions}.",
            "What {extensions} files larger than {larger_than_mb} megabytes lie in {folder}?",
            "{folder} / > {larger_than_mb} MB / {extensions}",
            "Somebody fills up {folder}. Look for {extensions} files of more than {larger_than_mb} MB there.",
        ),
        answers=("{files} files, {total_mb} MB in all.", "They take {total_mb} MB together."),
        names=("find_big_files", "disk_hogs", "search_files_by_size"),
        parameters={"folder": ("directory", "root"), "larger_than_mb": ("min_size_mb",), "extensions": ("file_types",)},
    ),
    Task(
        transfer_seconds,
        arguments={"megabytes": decimal(20, 9000), "megabits_per_second": one_of(10, 16, 25, 50, 100, 250, 500, 1000),
                   "overhead_percent": one_of(*((n, f"{n}%") for n in (3, 5, 8, 10)))},
        queries=(
            "How many seconds does it take to send {megabytes} MB at {megabits_per_second} Mbit/s?",
            "{megabytes} megabytes over a {megabits_per_second} megabit line with {overhead_percent} overhead: "
            "seconds?",
            "I upload {megabytes} MB and my line does {megabits_per_second} Mbit/s. How long will I sit here?",
            "Transfer time, {megabytes} MB, {megabits_per_second} Mbps",
        ),
        answers=("It takes {result} seconds.", "About {result} seconds."),
        names=("upload_duration", "time_to_transfer", "send_time"),
        parameters={"megabytes": ("size_mb", "data_mb"), "megabits_per_second": ("mbps",),
                    "overhead_percent": ("overhead",)},
    ),
    Task(
        latest_release,
        arguments={"repository": repo},
        queries=(
            "What is the latest release of {repository}?",
            "newest version of {repository}",
            Query(
                "Which version of {repository} is the newest, release candidates included?", fixed={"prereleases": True}
            ),
            "We still run an ancient {repository}. Could you look up its current release?",
        ),
        answers=("The latest is {result}.", "It is at version {result}."),
        names=("newest_version", "current_release_of", "repo_release"),
        parameters={"repository": ("repo", "project"), "prereleases": ("include_candidates",)},
    ),
    Task(
        next_version,
        arguments={"version": version, "part": one_of("major", "minor", "patch")},
        queries=(
            "We are at {version}. What comes after a {part} release?",
            "Bump {version} ({part}).",
            "I need the next {part} version number after {version}, please.",
            "version {version}, raise the {part} part",
        ),
        answers=("The next version is {result}.", "It becomes {result}."),
        names=("bump_version", "increase_version", "semver_step"),
        parameters={"version": ("current_version", "from_version"), "part": ("level", "step")},
        slips={"part": (("feature", "minor"), ("bugfix", "patch"), ("breaking", "major"))},
    ),
    Task(
        open_issues,
        arguments={"project": repo, "label": one_of("bug", "docs", "good first issue", "security", "regression"),
                   "assignee": one_of("mkaya", "lena-w", "tom_p", "okafor7", "ritasilva")},
        queries=(
            "How many open issues does {project} have?",
            'Count the open issues of {project} with the label "{label}".',
            "{assignee} is on holiday. What is still open for {assignee} in {project}?",
            "project {project}, label {label}, assigned to {assignee}: open issues?",
        ),
        answers=("{open} are open; the oldest is {oldest}.", "There are {open} open issues."),
        names=("count_tickets", "issue_backlog", "list_open_bugs"),
        parameters={"project": ("repository", "repo"), "label": ("tag",), "assignee": ("assigned_to", "user")},
    ),
    Task(
        create_alert,
        arguments={"metric": one_of(*METRICS), "above": decimal(1, 95),
                   "notify": several(one_of("ops", "pager", "Lena", "on-call", "Victor", "db-team"), 1, 3),
                   "for_minutes": whole(10, 60)},
        queries=(
            "Alert {notify} when {metric} is above {above}.",
            "New alert: {metric} > {above} for {for_minutes} minutes, notify {notify}",
            "Last night nobody noticed that {metric} went over {above}. Tell {notify} next time!",
            "If {metric} stays higher than {above} for {for_minutes} minutes, {notify} should be told.",
        ),
        answers=("The rule {result} is active.", "Created: {result}"),
        names=("add_monitor_rule", "set_threshold_alarm", "watch_metric"),
        parameters={"metric": ("metric_name", "signal"), "above": ("threshold", "limit"), "notify": ("recipients",),
                    "for_minutes": ("duration_minutes",)},
    ),
)  # fmt: skip

CHAINS = (
    Chain(
        export_rows,
        compress_file,
        feeds="path",
        queries=(
            "Export {fields} of {source_table} and compress the file with {method}.",
            "I need {source_table} as a packed CSV: columns {fields}, sorted by {order_by}.",
            Query(
                "CSV of {source_table} ({fields}), {method} it, keep only the archive.", fixed={"delete_original": True}
            ),
        ),
        between=("The file is {given}.", "Exported to {given}; I compress it."),
        answers=("The archive is {archive}.", "{archive} is ready, {percent_saved}% smaller."),
    ),
    Chain(
        free_disk_gb,
        backups_that_fit,
        feeds="free_gb",
        queries=(
            "How many {backup_gb} GB backups still fit on {server}?",
            "Check {mount_point} on {server}: how many backups of {backup_gb} GB fit if {reserve_gb} GB stay free?",
            "{server}, backups of {backup_gb} GB each: how many more?",
        ),
        between=("{given} GB are free.", "There are {given} GB left."),
        answers=("{result} backups fit into {given} GB.", "There is room for {result} more."),
    ),
    Chain(
        resolve_host,
        subnet_of,
        feeds="address",
        queries=(
            "In which /{prefix_length} subnet does {host_name} lie?",
            Query("Look up {host_name} internally and give me its /{prefix_length} network.", fixed={"internal": True}),
            "Resolve {host_name}, then tell me network and broadcast for a prefix of {prefix_length}.",
        ),
        between=("Its address is {given}.", "It resolves to {given}."),
        answers=("{given} lies in {network}.", "The network is {network}, the broadcast address {broadcast}."),
    ),
    Chain(
        large_files,
        transfer_seconds,
        feeds="megabytes",
        takes="total_mb",
        queries=(
            "Find the {extensions} files over {larger_than_mb} MB in {folder}. How many seconds would it take to send "
            "them all at {megabits_per_second} Mbit/s?",
            "I move {extensions} files over {larger_than_mb} MB from {folder} over a {megabits_per_second} Mbit line. "
            "Seconds?",
            "{folder}, {extensions}, > {larger_than_mb} MB: transfer time at {megabits_per_second} Mbps",
        ),
        between=("They are {given} MB in all.", "Together they take {given} MB."),
        answers=("Sending {given} MB takes {result} seconds.", "{result} seconds."),
    ),
    Chain(
        latest_release,
        next_version,
        feeds="version",
        queries=(
            "What will the next {part} version of {repository} be called?",
            "Look up the latest release of {repository} and bump its {part} number.",
            Query(
                "{repository}, candidates included: newest release plus one {part} step?", fixed={"prereleases": True}),
        ),
        between=("The latest release is {given}.", "It is at {given}."),
        answers=("After {given} comes {result}.", "The next one is {result}."),
    ),
)  # fmt: skip
