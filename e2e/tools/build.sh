#!/usr/bin/env bash
# Provides the programs that the end-to-end tests run: etcd, etcdctl, kube-apiserver,
# kube-controller-manager, kube-scheduler, kubectl, kwok, and with it kwok-stages.yaml.
#
# They are ordinary Go modules, pinned by the go.mod and go.sum beside this script, built once and
# kept in a cache. The last line on stdout is the directory that holds them; what is meant for people
# goes to stderr.
#
#   HANSE_E2E_CACHE      the cache (default: ${XDG_CACHE_HOME:-$HOME/.cache}/hanse/e2e)
#   KUBEBUILDER_ASSETS   a directory with programs of your own, as for envtest
#   TEST_ASSET_ETCD, TEST_ASSET_KUBE_APISERVER, TEST_ASSET_KUBECTL
#                        one program of your own, as for envtest; goes before the directory
set -euo pipefail

# Part of the cache's key, as the modules and the Go version are: raise it when a flag or a stamp
# below changes. The text of this script is not part of it, or a comment would cost ten minutes.
recipe=1

files=(etcd kube-apiserver kubectl etcdctl kube-controller-manager kube-scheduler kwok kwok-stages.yaml)
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${HANSE_E2E_CACHE:-${XDG_CACHE_HOME:-${HOME:?is not set, set HANSE_E2E_CACHE}/.cache}/hanse/e2e}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

# The toolchain in use is the installed one, and neither a go.work around the tree nor flags of the
# user's environment reach the build: what comes out depends on the key alone.
export GOTOOLCHAIN=local GOWORK=off GOFLAGS=-mod=readonly CGO_ENABLED=0

say() { echo "e2e tools: $*" >&2; }
fail() {
    say "$*"
    exit 1
}

# --- programs of the user ------------------------------------------------------------------------

# Prints the path of the user's own FILE, or nothing.
own() {
    local variable=TEST_ASSET_${1//-/_} path=
    variable=${variable^^}
    if [[ $variable =~ ^[A-Z_]+$ && -n ${!variable:-} ]]; then
        path=${!variable}
    elif [[ -n ${KUBEBUILDER_ASSETS:-} ]]; then
        path=$KUBEBUILDER_ASSETS/$1
    fi
    if [[ -f $path && ( -x $path || $1 == *.yaml ) ]]; then realpath "$path"; fi
}

# Succeeds when the user brings everything that envtest needs. With less than that the versions
# would be mixed behind the user's back, so it is said and the cache build is used for all.
brings_own() {
    local file
    [[ -n ${KUBEBUILDER_ASSETS:-}${TEST_ASSET_ETCD:-}${TEST_ASSET_KUBE_APISERVER:-}${TEST_ASSET_KUBECTL:-} ]] || return 1
    for file in etcd kube-apiserver kubectl; do
        if [[ -z $(own "$file") ]]; then
            say "KUBEBUILDER_ASSETS and TEST_ASSET_* name no $file that can be run; they are left aside"
            return 1
        fi
    done
}

# Prints a directory of links to the user's files, completed from the cache build where they have
# none. The directory is named after its content, so it never changes once it is there.
link_own() {
    local file path target missing=() sources=()
    for file in "${files[@]}"; do
        path=$(own "$file")
        # kwok and its stages are of one version: both the user's, or neither.
        if [[ $file == kwok* && ( -z $(own kwok) || -z $(own kwok-stages.yaml) ) ]]; then path=; fi
        if [[ -z $path ]]; then missing+=("$file"); else sources+=("$file=$path"); fi
    done
    if ((${#missing[@]})); then
        say "not among the programs of your own, taken from the cache build: ${missing[*]}"
        build_all
        for file in "${missing[@]}"; do sources+=("$file=$bin/$file"); done
    fi

    target=$cache/own-$(printf '%s\n' "${sources[@]}" | sha256sum | cut -c1-16)
    lock
    if [[ ! -d $target/bin ]]; then
        scratch
        for file in "${sources[@]}"; do ln -s "${file#*=}" "$temporary/bin/${file%%=*}"; done
        mv -T "$temporary" "$target"
    fi
    bin=$target/bin
}

# --- the cache build -----------------------------------------------------------------------------

# One builder at a time for each cache; a second one waits and then finds everything there.
lock() {
    if [[ -n ${locked:-} ]]; then return; fi
    exec 9>"$cache/lock"
    flock --nonblock 9 || {
        say "another build is under way, waiting for it"
        flock 9
    }
    locked=yes
}

# A directory beside the final one, so that the rename at the end is atomic. Half a build is never
# seen under a final name, however this script ends.
scratch() {
    temporary=$(mktemp -d "$cache/unfinished.XXXXXX")
    trap 'rm -rf "$temporary"' EXIT
    # mktemp makes it for the owner alone; a cache may well be shared.
    chmod 755 "$temporary"
    mkdir "$temporary/bin"
}

# go_build MODULE OUTPUT PACKAGE...: builds into OUTPUT, a file, or a directory when it ends in "/".
go_build() {
    local module=$1 output=$2 began=$SECONDS
    shift 2
    say "  building ${*##*cmd/} ..."
    go -C "$tools/$module" build -trimpath -pgo=off -ldflags "-s -w ${stamp:-}" -o "$temporary/bin/$output" "$@"
    say "    $((SECONDS - began)) s"
}

# Unstamped servers call themselves v0.0.0-master+$Format, which breaks every client that compares
# versions. The date is fixed: it says nothing here and would make each build another one.
version_stamp() {
    local version major minor package
    version=$(go -C "$tools/kubernetes" list -m -f '{{.Version}}' k8s.io/kubernetes)
    IFS=. read -r major minor _ <<<"${version#v}"
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        printf -- '-X %s=%s ' \
            "$package.gitVersion" "$version" "$package.gitMajor" "$major" "$package.gitMinor" "$minor" \
            "$package.gitTreeState" clean "$package.gitCommit" unknown \
            "$package.buildDate" 1970-01-01T00:00:00Z
    done
}

# kwok does not start without stages. These let a node be ready at once and a pod run, complete and
# vanish at once.
kwok_stages() {
    local module stage
    module=$(go -C "$tools/kwok" list -m -f '{{.Dir}}' sigs.k8s.io/kwok)
    for stage in "$module"/kustomize/stage/{node,pod}/fast/*.yaml; do
        if [[ $stage == */kustomization.yaml ]]; then continue; fi
        echo "---"
        cat "$stage"
    done
}

# Sets `bin` to the directory with all files, built if they are not there yet.
build_all() {
    local key began=$SECONDS kubernetes=k8s.io/kubernetes/cmd
    command -v go >/dev/null ||
        fail "no Go toolchain found: install Go 1.26 or later, or set KUBEBUILDER_ASSETS to a directory with: ${files[*]}"
    key=$({
        echo "recipe $recipe"
        go env GOVERSION GOOS GOARCH
        cd "$tools" && sha256sum {kubernetes,etcd,kwok}/go.{mod,sum}
    } | sha256sum | cut -c1-16)
    bin=$cache/$key/bin
    if [[ -d $bin ]]; then return; fi
    lock
    if [[ -d $bin ]]; then return; fi

    say "building Kubernetes, etcd and kwok with $(go env GOVERSION) into $bin"
    say "this happens once and takes about ten minutes on two cores"
    scratch
    go_build etcd etcd go.etcd.io/etcd/server/v3
    go_build etcd etcdctl go.etcd.io/etcd/etcdctl/v3
    go_build kwok kwok sigs.k8s.io/kwok/cmd/kwok
    kwok_stages >"$temporary/bin/kwok-stages.yaml"
    stamp=$(version_stamp)
    go_build kubernetes "" $kubernetes/kube-apiserver $kubernetes/kube-controller-manager \
        $kubernetes/kube-scheduler $kubernetes/kubectl
    mv -T "$temporary" "$cache/$key"
    say "done in $((SECONDS - began)) s"
}

if brings_own; then link_own; else build_all; fi
echo "$bin"
