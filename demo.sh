#!/usr/bin/env bash
# The main job on real or rendered pictures: check, train, measure, search.  `make demo` runs this.
#   DATA   a data set: a CSV (path,pid,camid,split), a Market-1501-style folder, or a folder with
#          one folder per person.  Default: $CROSSCAM_DATA/market1501/holdout.csv (make: data/...),
#          if it is there, else people rendered on the spot.
#   EPOCHS passes over the training pictures (default 12: three to six minutes on two cores)
set -euo pipefail
cd "$(dirname "$0")"
started=$SECONDS
number=0
step() { # step TEXT COMMAND...
    local text=$1 since=$SECONDS
    shift
    number=$((number + 1))
    printf '\n== %d. %s\n   $ %s\n' "$number" "$text" "$*"
    "$@"
    printf '   (%d s)\n' $((SECONDS - since))
}

step "Install crosscam and what it needs into .venv" "${MAKE:-make}" --no-print-directory setup
crosscam=.venv/bin/crosscam
out=runs/demo
real=${CROSSCAM_DATA:-}/market1501/holdout.csv

if [ -z "${DATA:-}" ] && [ -n "${CROSSCAM_DATA:-}" ] && [ -f "$real" ]; then
    DATA=$real
fi
if [ -z "${DATA:-}" ]; then
    DATA=$out/people
    step "Render people who do not exist (or name a data set: make demo DATA=FOLDER)" \
        "$crosscam" synth "$DATA" --ids 200 --cameras 6 --shots 4
fi
if [ ! -e "$DATA" ]; then
    echo "crosscam: DATA=$DATA does not exist. Give a folder or a CSV file." >&2
    exit 1
fi
partial=()
if [ -f "$DATA" ]; then
    name=csv
elif [ -f "$DATA/identities.jsonl" ]; then
    name=rendered
elif [ -d "$DATA/bounding_box_train" ]; then
    name=market1501
    partial=(--partial)
else
    name=folder
fi

step "Is the data set as it should be?" \
    "$crosscam" data check "$name" "$DATA" ${partial[@]+"${partial[@]}"} || exit 1
step "What colors alone can do: HSV histograms, nothing learned" \
    "$crosscam" evaluate hsv --data "$name" --root "$DATA" ${partial[@]+"${partial[@]}"} --out "$out/hsv"
rm -rf "$out/run"
step "Teach a small net that knows rendered people only the people of this set" \
    "$crosscam" train finetune data.name="$name" data.root="$DATA" \
    data.partial="$([ ${#partial[@]} -gt 0 ] && echo true || echo false)" \
    schedule.epochs="${EPOCHS:-12}" --out "$out/run"
step "Measure it on people it has never seen" "$crosscam" evaluate "$out/run"
picked=()
while IFS= read -r line; do picked+=("$line"); done < <(.venv/bin/python - "$name" "$DATA" <<'P'
import sys
from crosscam.data import datasets
query, gallery = datasets.load(sys.argv[1], sys.argv[2], partial=True).require_test()
print(gallery[0].path.parent, *(query[len(query) * k // 8].path for k in (1, 4, 7)), sep="\n")
P
)
step "Search a folder of pictures for three people" \
    "$crosscam" search "${picked[@]:1}" --gallery "${picked[0]}" --model "$out/run" --top 5 \
    --out "$out/search.html"

rm -rf "$out/encoder" "$out/visitors" "$out/visitors.gallery" "$out/visitors.gallery.service"
step "Take the encoder out of the lab, and prove that it is the same" \
    "$crosscam" export "$out/run" "$out/encoder" --format onnx
step "Learn what its scores mean, and check that on other people" \
    "$crosscam" calibrate "$out/encoder" --data "$name" --root "$DATA" \
    ${partial[@]+"${partial[@]}"} --quiet
step "Render visitors of a building with four cameras" \
    "$crosscam" synth "$out/visitors" --ids 30 --cameras 4 --shots 2 --train-share 0 --seed 7
step "Keep their sightings in a gallery" \
    "$crosscam" gallery add "$out/visitors/bounding_box_test" --gallery "$out/visitors.gallery" \
    --model "$out/encoder"
query=$(find "$out/visitors/query" -name '*.jpg' | sort | sed -n 5p)
step "Who is this, and where else?" \
    "$crosscam" gallery search "$query" --gallery "$out/visitors.gallery" \
    --model "$out/encoder" --top 8 --out "$out/visitors.html"

printf '\nDone in %d s. Open these pages:\n' $((SECONDS - started))
find "$out" -name '*.html' | sort | sed 's/^/   /'
printf '\nServe the gallery and search it in your browser:\n'
printf '   %s token add me --role admin --gallery %s\n' "$crosscam" "$out/visitors.gallery"
printf '   %s serve --gallery %s --model %s\n' "$crosscam" "$out/visitors.gallery" "$out/encoder"
