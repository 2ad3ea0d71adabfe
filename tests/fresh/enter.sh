#!/usr/bin/env bash
# Become the first process of the system in a folder: tests/fresh calls this in namespaces of its own.
# Usage: enter.sh machine|chroot|container FOLDER COMMAND...
set -euo pipefail

how=$1 root=$2
shift 2

mount --make-rprivate /
# What pivot_root takes is a mount; a chroot has none, that is what makes it one.
[ "$how" = chroot ] || mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t tmpfs -o mode=755 run run
mkdir run/lock

case $how in
    machine)
        mkdir -p mnt/host
        pivot_root . mnt/host
        cd /
        umount --lazy mnt/host
        exec "$@"
        ;;
    chroot) exec chroot "$root" "$@" ;;
    container)
        # What is left to root in a container of Docker or Kubernetes that was given no privilege.
        # There a filter of system calls refuses user namespaces, here the chroot does.
        kept=+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+setfcap
        kept+=,+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write
        exec setpriv --inh-caps=-all --bounding-set="-all,$kept" chroot "$root" "$@"
        ;;
esac
