#!/usr/bin/env bash
# Plants known bugs, one at a time, and shows that the hunt finds each with the seeds of every build.
#
#   tests/mutants.sh            # all of tests/mutants/*.patch
#   tests/mutants.sh NAME...    # these
#
# What the seeds do not find, the plans of src/sim/hunt/known may: every build carries them out as well, and it is said.
#
# Works on a copy of the tree with a build folder of its own below target/mutants, so that each bug costs one
# incremental build. A bug that the hunt does not find, a patch that no longer applies or compiles, and a hunt without a
# verdict are errors.
# SEEDS (200) and LONGEST (900, seconds for one bug) bound the search.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
export CARGO_TERM_COLOR=never
seeds=${SEEDS:-200} longest=${LONGEST:-900}
place=$PWD/target/mutants
copy=$place/tree build=$place/build

say() { printf '%s\n' "$*"; }
in_copy() { (cd "$copy" && GIT_CEILING_DIRECTORIES=$place "$@"); }
# Nobody looks at these builds in a debugger.
build_it() {
  (cd "$copy" && cargo build --locked --quiet --bin gharts-listener --target-dir "$build" \
    --config profile.dev.package.gharts-listener.debug=false) >"$place/build.log" 2>&1
}

# What is no longer in the tree must not be in the copy.
rm -rf "$copy"
mkdir -p "$copy"
# Dates are kept, so that only what changed is built.
git ls-files -z | xargs -0 cp --parents --preserve=timestamps -t "$copy"
# A mutant of an earlier run must not pass for this tree.
touch "$copy/src/lib.rs"
if [ ! -d "$build" ] && [ -d target/debug/deps ]; then
  # Dependencies that are built already need not be built again.
  mkdir -p "$build/debug"
  for part in deps build .fingerprint; do cp -al "target/debug/$part" "$build/debug/"; done
fi

if [ $# -gt 0 ]; then names=("$@"); else
  names=()
  for patch in tests/mutants/*.patch; do names+=("$(basename "$patch" .patch)"); done
fi

if ! build_it; then
  cat "$place/build.log" >&2
  exit 1
fi

# The first plan that fails.
found_by_plan() {
  local plan verdict
  for plan in src/sim/hunt/known/*.json; do
    verdict=0
    timeout "$longest" "$build/debug/gharts-listener" hunt --plan "$plan" >/dev/null 2>&1 || verdict=$?
    if [ $verdict -eq 1 ]; then
      basename "$plan" .json
      return 0
    fi
  done
  return 1
}

missed=() broken=() by_plan=()
for name in "${names[@]}"; do
  patch=$PWD/tests/mutants/$name.patch
  what=$(head -1 "$patch")
  if ! in_copy git apply "$patch" 2>"$place/apply.log"; then
    say "BROKEN  $name: does not apply: $(head -1 "$place/apply.log")"
    broken+=("$name")
    continue
  fi
  begun=$SECONDS
  if ! build_it; then
    say "BROKEN  $name: does not compile: $(grep -m1 '^error' "$place/build.log")"
    broken+=("$name")
  else
    verdict=0
    timeout "$longest" "$build/debug/gharts-listener" hunt --seeds "$seeds" --first --no-shrink >"$place/$name.log" 2>&1 || verdict=$?
    case $verdict in
      1) say "found   $name ($((SECONDS - begun)) s): $(grep -m1 -A1 '^seed' "$place/$name.log" | tr -s '\n ' ' ' | cut -c1-150)" ;;
      0)
        if plan=$(found_by_plan); then
          say "found   $name ($((SECONDS - begun)) s): by the plan $plan, by none of $seeds seeds"
          by_plan+=("$name")
        else
          say "MISSED  $name: $what"
          missed+=("$name")
        fi
        ;;
      124)
        say "BROKEN  $name: no verdict within $longest s"
        broken+=("$name")
        ;;
      *)
        say "BROKEN  $name: the hunt ended with $verdict"
        broken+=("$name")
        ;;
    esac
  fi
  in_copy git apply -R "$patch"
done
say "${#names[@]} bugs planted, ${#missed[@]} missed, ${#by_plan[@]} found by a plan alone, ${#broken[@]} broken patches"
[ ${#missed[@]} -eq 0 ] && [ ${#broken[@]} -eq 0 ]
