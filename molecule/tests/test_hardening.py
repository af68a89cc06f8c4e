"""Updates come by themselves, who tries too often is banned, the kernel keeps what it should."""

import re

import pytest

testinfra_hosts = ["ansible://all"]


def apt_setting(host, name: str) -> str:
    """Return a setting as apt understands it."""
    return host.check_output("apt-config dump --no-empty --format '%%v%%n' %s", name)


def jail_setting(host, jail: str, name: str) -> str:
    """Return what the running fail2ban has for a jail."""
    return host.check_output("fail2ban-client get %s %s", jail, name)


@pytest.fixture
def is_web(host) -> bool:
    """Return whether nginx is there, which tells whom it refused."""
    return host.package("nginx").is_installed


def test_only_security_updates_are_installed(host):
    said = host.check_output("unattended-upgrade --dry-run --debug --verbose")
    allowed = re.search(r"^Allowed origins are: (.+)$", said, re.MULTILINE)[1].split(", ")
    release = host.check_output(". /etc/os-release; echo $VERSION_CODENAME")
    assert allowed == [
        f"origin=Debian,codename={release}-security,label=Debian-Security",
        f"origin=Ubuntu,archive={release}-security,label=Ubuntu",
    ]


def test_updates_are_looked_for_and_installed_every_day(host):
    for timer in ("apt-daily.timer", "apt-daily-upgrade.timer"):
        assert host.service(timer).is_running
        assert host.service(timer).is_enabled
    for name in ("Update-Package-Lists", "Unattended-Upgrade"):
        assert apt_setting(host, f"APT::Periodic::{name}") == "1"


def test_the_reboot_policy_is_what_the_inventory_says(host, knob):
    reboot = "Unattended-Upgrade::Automatic-Reboot"
    policy = {"when-needed": "true", "never": "false"}[knob("hardening_reboot", "when-needed")]
    seen = apt_setting(host, f"{reboot}").splitlines()
    assert seen[0] == policy
    assert apt_setting(host, f"{reboot}-Time") == knob("hardening_reboot_time", "04:30")
    assert apt_setting(host, f"{reboot}-WithUsers") == "true"


def test_an_upgrade_waits_for_no_answer_and_sends_no_mail(host):
    options = apt_setting(host, "DPkg::Options").split()
    assert options == ["--force-confdef", "--force-confold"]
    assert apt_setting(host, "Unattended-Upgrade::Mail") == ""


@pytest.fixture
def replaced_library(host):
    """Run a process with a library that is no longer on the disk."""
    host.check_output("mkdir -p /usr/local/lib/slipway-test")
    library = "/usr/local/lib/slipway-test/libz.so.1"
    host.check_output("cp $(readlink -f /lib/*/libz.so.1) %s", library)
    start = f"systemd-run --unit old-library --setenv LD_PRELOAD={library} sleep 600"
    host.check_output(start)
    host.check_output("timeout 10 sh -c 'until grep -qs %s /proc/[0-9]*/maps; do :; done'", library)
    host.check_output("rm -r /usr/local/lib/slipway-test")
    yield
    host.check_output("systemctl stop old-library; rm -f /run/reboot-required")


@pytest.mark.usefixtures("replaced_library")
def test_a_process_with_a_replaced_library_counts_as_a_needed_reboot(host):
    host.run("rm -f /run/reboot-required")
    mark = apt_setting(host, "DPkg::Post-Invoke").splitlines()[-1]
    host.check_output("sh -c %s", mark)
    assert host.file("/run/reboot-required").exists


def test_the_running_jails_have_the_promised_numbers(host, knob, is_web):
    jails = {"sshd": (5, "ssh_failures", 600, "ssh_window_seconds")}
    if is_web:
        jails["slipway-probing"] = (100, "probe_answers", 60, "probe_window_seconds")
    listed = host.check_output("fail2ban-client status").splitlines()[-1].partition(":")[2]
    assert {name.strip() for name in listed.split(",")} == jails.keys()
    for jail, (most, most_knob, window, window_knob) in jails.items():
        promised = {
            "maxretry": knob(f"hardening_{most_knob}", most),
            "findtime": knob(f"hardening_{window_knob}", window),
            "bantime": knob("hardening_ban_seconds", 600),
            "bantime.maxtime": knob("hardening_ban_max_seconds", 86400),
        }
        for name, value in promised.items():
            assert jail_setting(host, jail, name) == str(value)
        assert jail_setting(host, jail, "bantime.increment") == "True"


def test_trusted_addresses_are_never_banned(host, knob):
    told = jail_setting(host, "sshd", "ignoreip").split()
    for address in ["127.0.0.0/8", "::1", *knob("hardening_trusted_addresses", [])]:
        assert address in told


def test_fail2ban_starts_at_boot_and_says_nothing_bad(host):
    service = host.service("fail2ban")
    assert service.is_running
    assert service.is_enabled
    bad = "grep -E ' (ERROR|CRITICAL) ' /var/log/fail2ban.log"
    assert host.run(bad).stdout == ""


def test_the_kernel_settings_are_the_last_word(host, knob):
    """What would be loaded at the next boot, all files of all packages considered."""
    said = host.check_output("/usr/lib/systemd/systemd-sysctl --cat-config")
    last = dict(re.findall(r"^-?([\w./*-]+)\s*=\s*(.+?)\s*$", said, re.MULTILINE))
    namespaces = int(knob("hardening_user_namespaces", False))
    for key, value in {
        "net.ipv4.conf.*.rp_filter": knob("hardening_reverse_path_filter", 1),
        "net.ipv4.conf.*.accept_redirects": 0,
        "net.ipv4.tcp_syncookies": 1,
        "kernel.kptr_restrict": 2,
        "kernel.unprivileged_userns_clone": namespaces,
        "fs.protected_regular": 2,
    }.items():
        assert last[key] == str(value)


def test_the_kernel_takes_every_setting_of_the_network(host, knob):
    """In a container as well, whose network is its own: for this, /proc is mounted writable."""
    ask = (
        "mount -t proc proc /proc && /usr/lib/systemd/systemd-sysctl --prefix=/net"
        " /etc/sysctl.d/60-slipway.conf && cd /proc/sys/net && grep -r . ipv4/conf"
        " ipv4/tcp_syncookies ipv6/conf | sort"
    )
    said = host.check_output("unshare --mount sh -c %s", ask)
    live = dict(line.split(":", 1) for line in said.splitlines())
    interfaces = {path.split("/")[2] for path in live if path.startswith("ipv4/conf/")}
    assert len(interfaces) >= 4  # all, default, lo and the one to the world
    for interface in interfaces:
        path = f"ipv4/conf/{interface}"
        assert live[f"{path}/rp_filter"] == str(knob("hardening_reverse_path_filter", 1))
        for redirects in ("accept_redirects", "secure_redirects", "send_redirects"):
            assert live[f"{path}/{redirects}"] == "0"
        assert live[f"{path}/accept_source_route"] == "0"
        assert live[f"{path}/log_martians"] == "1"
        assert live[f"ipv6/conf/{interface}/accept_redirects"] == "0"
    assert live["ipv4/tcp_syncookies"] == "1"


def test_modules_that_nobody_needs_are_blocked(host, knob):
    default = "dccp sctp rds tipc usb-storage firewire-core firewire-ohci cramfs freevxfs hfs"
    default = [*default.split(), "hfsplus", "jffs2", "udf"]
    blocked = knob("hardening_blocked_modules", default)
    promised = [f"install {module} /bin/false" for module in blocked]
    written = host.file("/etc/modprobe.d/60-slipway.conf").content_string
    assert re.findall(r"^install .+", written, re.MULTILINE) == promised


def test_a_crash_leaves_nothing_of_its_memory(host):
    for user in ("root", "nobody"):
        assert host.check_output("su -s /bin/sh %s -c 'ulimit -H -c'", user) == "0", user
    said = host.check_output("systemd-analyze cat-config systemd/coredump.conf")
    last = dict(re.findall(r"^(\w+)=(.+)$", said, re.MULTILINE))
    assert last == {"Storage": "none", "ProcessSizeMax": "0"}


def test_a_forgotten_prompt_logs_itself_out(host, knob):
    said = host.check_output("env --ignore-environment bash --login -c 'echo $TMOUT; ulimit -S -c'")
    assert said.split() == [str(knob("hardening_idle_shell_seconds", 3600)), "0"]
    changed = host.run("env --ignore-environment bash --login -c 'TMOUT=0'")
    assert "readonly variable" in changed.stderr


def test_the_console_says_whose_it_is_and_not_what(host, knob):
    said = "This system is private. Access without permission is prohibited, and what happens"
    promised = knob("hardening_notice", f"{said} is logged.")
    for file in ("/etc/issue", "/etc/issue.net"):
        assert host.file(file).content_string == f"{promised}\n"
