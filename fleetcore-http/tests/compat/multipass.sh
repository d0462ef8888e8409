#!/bin/sh
# Stand-in for multipass: one file per instance in vms/ (state, addresses, release, cpus), switches as files beside it.
d=$(dirname "$0")
line=multipass
for a in "$@"; do line="$line$(printf '\037')$a"; done
printf '%s\n' "$line" >>"$d/argv"
fail() { printf '%s failed: %s\n' "$1" "$2" >&2; exit 2; }
need() { [ -e "$d/vms/$2" ] || fail "$1" "instance \"$2\" does not exist"; }
spin() { [ ! -e "$d/spinner" ] || printf '\033[2K\033[0A\033[0E%s  \b/\b \033[2K\033[0A\033[0E' "$1"; }
load() { { read -r state; read -r ips; read -r release; read -r cpus; } <"$d/vms/$1"; }
save() { printf '%s\n%s\n%s\n%s\n' "$state" "$ips" "$release" "$cpus" >"$d/vms/.$1" && mv "$d/vms/.$1" "$d/vms/$1"; }
if [ -e "$d/fail_$1" ]; then cat "$d/fail_$1" >&2; exit 2; fi
if [ -e "$d/delay_$1" ]; then sleep "$(cat "$d/delay_$1")"; fi
case $1 in
list)
    if [ -e "$d/broken_json" ]; then echo 'No instances found.'; exit 0; fi
    printf '{"list": ['
    comma=
    for f in "$d"/vms/*; do
        [ -e "$f" ] || continue
        n=${f##*/}
        load "$n"
        [ "$state" = Running ] || ips='[]'
        printf '%s\n{"name": "%s", "state": "%s", "ipv4": %s, "release": "%s", "zone": {"name": "zone1", "available": true}}' \
            "$comma" "$n" "$state" "$ips" "$release"
        comma=,
    done
    printf ']}\n'
    ;;
info)
    need info "$2"
    load "$2"
    key=$2
    [ ! -e "$d/info_other_key" ] || key=$2-x
    if [ "$state" = Running ]; then
        printf '{"errors": [], "info": {"%s": {"state": "%s", "image_hash": "1797", "image_release": "22.04 LTS", "release": "Ubuntu 22.04.5 LTS", "cpu_count": "%s", "snapshot_count": "0", "load": [0.45, 0.51, 0.15], "disks": {"sda1": {"used": "1288490188", "total": "5153960756"}}, "memory": {"used": 60817408, "total": 1503238554}, "ipv4": %s, "mounts": {}, "zone": {"name": "zone1", "available": true}}}}\n' \
            "$key" "$state" "$cpus" "$ips"
    else
        printf '{"errors": [], "info": {"%s": {"state": "%s", "image_hash": "1797", "image_release": "22.04 LTS", "release": "", "cpu_count": "", "snapshot_count": "0", "load": [], "disks": {"sda1": {}}, "memory": {}, "ipv4": [], "mounts": {}, "zone": {"name": "zone1", "available": true}}}}\n' \
            "$key" "$state"
    fi
    ;;
launch)
    image=$2
    n=$4
    [ "$image" != no-such-image ] || fail launch "Unable to find an image matching \"$image\" in remote \"\"."
    [ ! -e "$d/vms/$n" ] || fail launch "instance \"$n\" already exists"
    state=Running ips='["10.9.0.10"]' release="Ubuntu $image LTS" cpus=$6
    save "$n"
    spin "Creating $n"
    echo "Launched: $n"
    ;;
start | stop)
    # The fleet's own provider puts options first.
    for last; do :; done
    set -- "$1" "$last"
    spin "$1 $2"
    need "$1" "$2"
    load "$2"
    [ "$state" != Deleted ] || fail "$1" "instance \"$2\" is deleted"
    state=Stopped
    [ "$1" = stop ] || state=Running
    save "$2"
    ;;
delete)
    [ "$2" = --purge ] || fail delete "the tests expect --purge"
    need delete "$3"
    rm "$d/vms/$3"
    ;;
exec)
    need exec "$2"
    shift 3
    exec "$@"
    ;;
shell)
    need shell "$2"
    echo "Welcome to $2"
    case $2 in
    echo) exec cat ;;
    raw) stty raw -echo; printf ready; exec cat ;;
    size) trap 'stty size' WINCH; stty size; while :; do sleep 0.02; done ;;
    deaf) trap '' HUP TERM; echo $$; while :; do sleep 1; done ;;
    *) PS1="ubuntu@$2:~\$ " HISTFILE='' exec bash --noprofile --norc -i ;;
    esac
    ;;
version)
    if [ "${2:-}" = --format ]; then echo '{"multipass": "1.16.0", "multipassd": "1.16.0"}'; exit 0; fi
    printf 'multipass   1.16.0\nmultipassd  1.16.0\n'
    ;;
*)
    echo "Error: Unknown command or alias '$1'" >&2
    exit 1
    ;;
esac
