#!/usr/bin/env bash
# Builds the image and runs both commands in it, as a user that the image does not know, on mounted folders.
#
# With a docker engine: the image's default base. Without one: Debian's buildah, as root, on a base that debootstrap makes;
# the host's pip configuration and the paths that it names are mounted during the build. What is missing is installed by
# apt-get. Needs about 15 GB under TMPDIR for that time.
#
#     bash tests/docker/build_and_run.sh                 # both commands
#     bash tests/docker/build_and_run.sh --train-only
set -euo pipefail
cd "$(dirname "$0")/../.."

foreign=4242
folders=(serialized_models quantized_models train_logs model_metrics)
work=$(mktemp -d "${TMPDIR:-/tmp}/keras_compress-docker.XXXXXX")
image=keras_compress-test
mounts=()
for folder in "${folders[@]}"; do
    mkdir -m 777 "$work/$folder"
    chmod 777 "$work/$folder"  # whatever the umask
    mounts+=(--volume "$work/$folder:/app/$folder")
done

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# --- docker -----------------------------------------------------------------------------------------------------------
build_with_docker() {
    docker build --tag "$image" .
}
run_with_docker() {  # UID, command...
    docker run --rm --user "$1:$1" "${mounts[@]}" "$image" "${@:2}"
}
default_user_with_docker() {
    docker run --rm "$image" id -u
}
clean_with_docker() {
    # The files belong to the foreign user: only a root, the container's, can always remove them.
    docker run --rm --user 0:0 --volume "$work:/leftovers" "$image" find /leftovers -mindepth 1 -delete || true
    docker image rm --force "$image" > /dev/null || true
}

# --- buildah ----------------------------------------------------------------------------------------------------------
in_store() {
    buildah --root "$work/store" --runroot "$work/run" "$@"
}
build_with_buildah() {
    export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
    [ "$(id -u)" = 0 ] || fail "there is no docker engine, and debootstrap needs root"
    if ! type buildah debootstrap > /dev/null 2>&1; then
        apt-get update -qq
        apt-get install -qq --yes --no-install-recommends buildah debootstrap
    fi
    debootstrap --variant=minbase --include=python3,python3-pip,python3-venv bookworm "$work/base" > "$work/debootstrap.log" \
        || { tail "$work/debootstrap.log"; fail "debootstrap"; }
    local container
    container=$(in_store from scratch)
    in_store add --quiet "$container" "$work/base" /
    in_store commit --quiet --rm "$container" debian-python
    rm -rf "$work/base"
    pip_configuration
    in_store build --build-arg BASE=localhost/debian-python --tag "$image" "${pip_mounts[@]}" .
}
pip_configuration() {
    # Sets pip_mounts: one configuration file with all that pip is told on this host, and the files and folders named in it.
    local settings path
    settings=$(python3 -m pip config list)
    echo "[global]" > "$work/pip.conf"
    sed -nE "s/^[^.]+\.([a-z-]+)='(.*)'$/\1 = \2/p; s/^:env:\.([a-z-]+)='(.*)'$/\1 = \2/p" <<< "$settings" \
        | sort --unique --key=1,1 >> "$work/pip.conf"
    pip_mounts=(--volume "$work/pip.conf:/etc/pip.conf:ro")
    # The pages of a local index link to files beside it: its folder is mounted as a whole.
    for path in $(grep --only-matching --extended-regexp "(file://)?/[^ ']+" <<< "$settings" \
        | sed -E 's,^file://(.*)/[^/]+/?$,\1,' | sort -u); do
        [ ! -e "$path" ] || pip_mounts+=(--volume "$path:$path:ro")
    done
}
run_with_buildah() {  # UID, command...
    local container status=0
    container=$(in_store from "localhost/$image")
    in_store run --user "$1:$1" "${mounts[@]}" "$container" -- "${@:2}" || status=$?
    in_store rm "$container" > /dev/null
    return "$status"
}
default_user_with_buildah() {
    local container
    container=$(in_store from "localhost/$image")
    in_store run "$container" -- id -u
    in_store rm "$container" > /dev/null
}
clean_with_buildah() {
    in_store rm --all > /dev/null || true
}

# --- the test ---------------------------------------------------------------------------------------------------------
engine=buildah
if docker info > /dev/null 2>&1; then
    engine=docker
fi
clean() {
    "clean_with_$engine"
    # A mount left below the folder would lead the removal to the host's own files.
    if grep --quiet " $work" /proc/self/mountinfo; then
        fail "something is still mounted below $work: unmount it, then remove the folder"
    fi
    rm -rf "$work"
}
trap clean EXIT

expect() {  # glob below the work folder
    compgen -G "$work/$1" > /dev/null || fail "no $1 was written"
}
expect_owner() {  # folder below the work folder
    local strangers
    strangers=$(find "$work/$1" -mindepth 1 ! -uid "$foreign")
    [ -z "$strangers" ] || fail "these do not belong to the user who ran the container: $strangers"
}

SECONDS=0
"build_with_$engine"
echo "built with $engine in $SECONDS s"

[ "$("default_user_with_$engine")" = 1000 ] || fail "the image's default user is not 1000"

SECONDS=0
"run_with_$engine" "$foreign" python train/train_baseline.py --dataset=digits --architecture=cnn --epochs=2
echo "trained in $SECONDS s"
expect serialized_models/digits_cnn.keras
expect serialized_models/digits_cnn.json
expect train_logs/digits_cnn.csv
expect 'train_logs/digits_cnn/*'
for folder in serialized_models train_logs; do expect_owner "$folder"; done

if [ "${1:-}" != --train-only ]; then
    SECONDS=0
    "run_with_$engine" "$foreign" python quantize/quantize_pretrained.py digits_cnn --methods=gpfq,msq --bits=4 --num_samples=100
    echo "quantized in $SECONDS s"
    expect 'quantized_models/*.keras'
    expect 'quantized_models/*.codes.npz'
    expect 'model_metrics/*.csv'
    expect 'model_metrics/digits_cnn/*.png'
    expect train_logs/model_quantizing.log
    for folder in "${folders[@]}"; do expect_owner "$folder"; done

    status=0
    "run_with_$engine" "$foreign" python quantize/quantize_pretrained.py no_such_model || status=$?
    [ "$status" = 2 ] || fail "a missing model ended with exit code $status, not 2"
fi
echo "passed"
