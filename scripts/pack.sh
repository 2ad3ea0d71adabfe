#!/usr/bin/env bash
# Build the charm with charmcraft.
#
# An installed charmcraft makes its own build environment. Without one, charmcraft from PyPI builds
# on this machine, which takes root, apt and the base's Python 3.12.
set -euo pipefail

missing() {
    echo "pack: charmcraft is not installed, and $1" >&2
    echo "pack: to install it: sudo snap install charmcraft --classic" >&2
    exit 1
}

if charmcraft --version >/dev/null 2>&1; then
    exec charmcraft pack
fi
[ "$(id -u)" -eq 0 ] || missing "only root can build without it"
command -v apt-get >/dev/null || missing "there is no apt-get to build without it"
python=$(scripts/find-python.sh 3.12 3.12) || missing "there is no Python 3.12 to build without it"
system_python=/usr/bin/python3
scripts/apt-install.sh python3-apt "charmcraft cannot work" "$system_python -c 'import apt_pkg'"
"$system_python" -c "import apt_pkg" 2>/dev/null || missing "there is no python3-apt to build without it"

# python3-apt is no PyPI package: the environment has to see the system's.
tools=.cache/charmcraft-system
[ -x $tools/bin/python ] || "$system_python" -m venv --system-site-packages --without-pip $tools
scripts/venv.sh $tools 3.10 requirements-pack.txt

# A copy of what git knows: neither the build's folders nor stray files get into each other's way.
build=.cache/pack
rm -rf $build
mkdir -p $build/source $build/bin
git ls-files -z | xargs -0 cp --parents -t $build/source
ln -s "$python" $build/bin/python3

# charmcraft builds for Ubuntu 24.04 only where it is told that this is one. The charm does not
# depend on it: its packages are wheels for Python 3.12.
printf '%s\n' 'NAME="Ubuntu"' 'ID=ubuntu' 'VERSION_ID="24.04"' 'VERSION_CODENAME=noble' \
    >$build/os-release
export PATH=$PWD/$build/bin:$PWD/$tools/bin:$PATH
# shellcheck disable=SC2016  # the inner shell expands them
unshare --mount bash -euc '
    mount --bind "$1/os-release" "$(readlink -f /etc/os-release)"
    cd "$1/source"
    "$2" pack --destructive-mode --verbosity brief --platform "$(dpkg --print-architecture)"
' pack "$build" "$PWD/$tools/bin/charmcraft"
cp $build/source/*.charm .
echo "pack: built $(cd $build/source && ls -- *.charm)"
