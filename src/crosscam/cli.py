"""The command line: thin, and it imports what a command needs when it runs."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import crosscam
from crosscam.errors import CrosscamError, InputError, RecipeError
from crosscam.processors import cores
from crosscam.wording import counted, did_you_mean, first_lines

__all__ = ["SPIN", "main", "told"]

SPIN = "1000"
"""GOMP_SPINCOUNT of commands.  PyTorch's threads wait for each other by turning in a loop, up to
300,000 times, which beside other work on the machine keeps away the one they wait for: evaluation
then takes several times as long.  Alone it costs nothing that could be told from noise
(benchmarks/busy.py)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (0 fine, 1 an error was printed, 130 interrupted)."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN)  # read when PyTorch is imported, so later
    parser = _parser(words)
    options, rest = parser.parse_known_args(words)
    run: Callable[[argparse.Namespace], int] | None = getattr(options, "run", None)
    if run is None:
        parser.print_help()
        return 2
    unknown = [r for r in rest if r.startswith("-") or not getattr(options, "takes_settings", 0)]
    options.settings = rest

    def known() -> int:
        if unknown:
            said = _as_settings(options, words, unknown[0])
            options.parser.error(f"unknown arguments: {' '.join(unknown)}{said}")
        return run(options)

    status = told(known)
    if run is _train and os.environ.get("WORLD_SIZE", "1") != "1":
        from crosscam.training import process

        process.leave(status)
    return status


def _as_settings(options: argparse.Namespace, words: Sequence[str], unknown: str) -> str:
    """How the first of the unknown arguments is written where settings are taken."""
    if not getattr(options, "takes_settings", 0):
        return ""
    from crosscam.recipe import as_setting

    value = next((b for a, b in itertools.pairwise(words) if a == unknown), "")
    if options.run is _describe:
        source, overrides = _described(options.method)
    else:
        source, overrides = options.recipe, []
        if source and ("=" in source or source == value):  # no recipe
            source = None
    value = "" if value.startswith("-") else value
    setting = as_setting(unknown, value, source, [*overrides, *words])
    example = f", as {setting}" if setting else ""
    return f". Settings stand without dashes{example} (crosscam train --help lists them)"


def told(run: Callable[[], int | None]) -> int:
    """Do something and return its exit status; errors that users can mend are printed as messages.

    0 (or None of ``run``) is fine, 1 an error was printed, 130 interrupted.
    """
    # crosscam.image has a bound of its own, and says so where a picture is beyond it.
    warnings.filterwarnings("ignore", message="Image size .* could be decompression bomb")
    try:
        return run() or 0
    except CrosscamError as error:
        print(f"crosscam: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        print("crosscam: PyTorch is needed for this: pip install torch", file=sys.stderr)
        return 1
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            return 1
        print(f"crosscam: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("crosscam: interrupted", file=sys.stderr)
        return 130


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of all commands, with arguments of the one that ``words`` name."""
    parser = argparse.ArgumentParser(
        prog="crosscam", description="Finds the same person again across cameras."
    )
    parser.add_argument("--version", action="version", version=f"crosscam {crosscam.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    chosen = next((word for word in words if not word.startswith("-")), None)

    def command(
        name: str,
        run: Callable[[argparse.Namespace], int],
        text: str,
        arguments: Callable[[argparse.ArgumentParser], None] | None = None,
        **kwargs: Any,
    ) -> None:
        sub = commands.add_parser(name, help=text, description=text, **kwargs)
        sub.set_defaults(run=run, parser=sub)
        if arguments and name == chosen:  # those of some stand with their code, which is heavy
            arguments(sub)

    command("train", _train, "Train a recipe, or resume a run.", _train_arguments, add_help=False)
    command("evaluate", _evaluate, "Measure a run by the field's protocol.", _evaluate_arguments)
    command("search", _search, "Rank a folder of pictures for a query picture.", _search_arguments)
    command("explain", _explain, "Show what runs look at, as a sheet of maps.", _explain_arguments)
    command("export", _export, "Make an encoder of a run: one folder, checked.", _export_arguments)
    command("wrap", _wrap, "Make an encoder of an ONNX network of somebody else's.",
            _wrap_arguments)  # fmt: skip
    command("embed", _embed, "Write the vectors of a folder of pictures.", _embed_arguments)
    command("score", _score, "Evaluate features of any model from an .npz file.", _score_arguments)
    command("describe", _describe, "Print size and cost of a method or recipe.",
            _describe_arguments)  # fmt: skip
    command("data", _data, "Check, list, split and join data sets.", _data_arguments)
    command("synth", _synth, "Render a data set of people who do not exist.", _synth_arguments)
    command("prior", _prior, "Make, list and show what guides training: masks and such.",
            _prior_arguments)  # fmt: skip
    command("convert", _convert, "Make a run of weights from another toolkit.", _convert_arguments)
    command("average", _average, "Make a run whose weights are the mean of several's.",
            _average_arguments)  # fmt: skip
    command("doctor", _doctor, "Find out whether an encoder is whole and rightly fed.",
            _doctor_arguments)  # fmt: skip
    command("models", _models, "List, show, verify and fetch encoders by name.", _models_arguments)
    command("gallery", _gallery, "Keep, search, name and forget sightings of people.",
            _gallery_arguments)  # fmt: skip
    command("calibrate", _calibrate, "Learn what scores mean, and when nobody fits.",
            _calibrate_arguments)  # fmt: skip
    command("serve", _serve, "Serve a gallery: API and page.", _serve_arguments)
    command("token", _token, "Make, list and end the tokens of a service.", _token_arguments)
    command("methods", _methods, "List methods, backbones and shipped recipes.")
    return parser


_COMMON: dict[str, dict[str, Any]] = {
    "name": {"help": "data set name (crosscam data list)"},
    "root": {"type": Path, "help": "its folder, or the CSV file"},
    "--root": {"help": "its folder, or the CSV file"},
    "--partial": {"action": "store_true", "help": "accept a subset"},
    "--option": {"action": "append", "default": [], "metavar": "KEY=VALUE"},
    "--ap": {"choices": ("rank-precision", "trapezoid")},
    "--images": {
        "type": Path,
        "metavar": "FOLDER",
        "help": "pictures to check with (default: rendered people)",
    },
    "--skip-bad": {"action": "store_true", "help": "leave out unreadable pictures"},
    "--runtime": {"choices": ("auto", "openvino", "onnxruntime", "torch"), "default": "auto"},
    "--device": {"default": "auto", "help": "cpu, cuda, cuda:0 or auto"},
    "--json": {"action": "store_true", "help": "print JSON"},
    "--quiet": {"action": "store_true", "help": "no progress bars"},
}
"""Arguments that several commands take."""


def _common(parser: argparse.ArgumentParser, *names: str, **changed: Any) -> None:
    """Add arguments that several commands take; ``changed`` is what is different here."""
    for name in names:
        parser.add_argument(name, **(_COMMON[name] | changed))


def _dataset_arguments(
    parser: argparse.ArgumentParser, text: str = "data set (default: the run's own)"
) -> None:
    parser.add_argument("--data", metavar="NAME", help=text)
    _common(parser, "--root")
    _benchmark_arguments(parser)


def _benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    _common(parser, "--partial", help="accept a subset of a benchmark")
    _common(parser, "--option", help="option of the data set, such as split=3")


def _dataset(options: argparse.Namespace) -> Any:
    """The data set of --data."""
    if not options.root:
        raise InputError("--data needs --root: the folder of the data set, or the CSV file.")
    return _read(options.data, options.root, options.option, partial=options.partial)


def _read(name: str, root: str | Path, options: Sequence[str], *, partial: bool) -> Any:
    """A data set with options as KEY=VALUE."""
    from crosscam.data import datasets

    return datasets.load(name, root, partial, **datasets.options_from_text(name, options))


def _rerank_arguments(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--rerank", action="store_true", help=text)
    parser.add_argument("--k1", type=int, metavar="N", help="neighbors that must be mutual "
                        "(default: 20)")  # fmt: skip
    parser.add_argument("--k2", type=int, metavar="N", help="neighbors that are averaged, itself "
                        "among them (default: 6)")  # fmt: skip
    parser.add_argument("--lambda", type=float, dest="lambda_value", metavar="L",
                        help="weight of the original distance, 0 to 1 (default: 0.3)")  # fmt: skip


def _reranking(options: argparse.Namespace) -> Any:
    """The settings of re-ranking that were asked for; False if none was."""
    from crosscam.retrieval import RerankSettings

    given = {k: getattr(options, k) for k in ("k1", "k2", "lambda_value")}
    given = {k: v for k, v in given.items() if v is not None}
    if given and not options.rerank:
        raise InputError("--k1, --k2 and --lambda belong to --rerank: give --rerank as well.")
    return options.rerank and RerankSettings(**given)


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(takes_settings=True)
    parser.add_argument("recipe", nargs="?", help="YAML file or shipped name, then key=value ...")
    parser.add_argument("--out", type=Path, help="run folder to create (default runs/RECIPE)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with an interrupted run; "
                        "data.root=... where its data lie elsewhere now")  # fmt: skip
    _common(parser, "--device")
    _common(parser, "--quiet", help="no progress bars or lines")
    parser.add_argument("-h", "--help", action="store_true", help="show every setting")


def _train(options: argparse.Namespace) -> int:
    settings = list(options.settings)
    if options.recipe and "=" in options.recipe:  # no recipe, only overrides
        settings.insert(0, options.recipe)
        options.recipe = None
    if options.help:
        return _train_help(options, settings)
    from crosscam import embedder, evaluate
    from crosscam.recipe import parse
    from crosscam.training import loop, record

    if options.resume:
        if options.recipe or options.out:
            raise RecipeError(
                "a resumed run keeps its recipe and its folder: leave RECIPE and --out away."
            )
        run = options.resume
        recipe = loop.resumed(run, settings)
    else:
        recipe = parse(options.recipe, settings)
        stem = Path(options.recipe).stem if options.recipe else recipe.method.name
        run = options.out or Path("runs") / stem

    def measure(method: Any) -> dict[str, float]:
        model = embedder.of_method(method, recipe, device=options.device)
        return dict(evaluate.figures(evaluate.evaluate(model, recipe.data.load())))

    common = {"device": options.device, "progress": not options.quiet, "evaluate": measure}
    try:
        if options.resume:
            loop.resume(run, settings, **common)
        else:
            loop.train(recipe, run, **common)
    except loop.Interrupted as stopped:
        print(f"crosscam: {stopped}", file=sys.stderr)
        return 130
    if os.environ.get("RANK", "0") != "0":
        return 0
    card = record.read_card(run)
    print(
        f"trained {counted(card['epochs'], 'epoch')} in {card['training_minutes']} minutes "
        f"({card['images_per_second']} images/s, {card['precision']}): {run}\n"
        f"next:   crosscam evaluate {run}"
    )
    return 0


def _train_help(options: argparse.Namespace, settings: Sequence[str]) -> int:
    from crosscam.recipe import describe_settings, shipped

    of_method = [s for s in settings if s.partition("=")[0] in ("method", "method.name")]
    found = list(describe_settings(options.recipe, of_method))
    method = next(value for key, _, value, _ in found if key == "method.name")
    recipe = f"recipe {options.recipe}, " if options.recipe else ""
    options.parser.print_help()
    print(f"\nrecipes that come with the package: {', '.join(shipped())}")
    print(f"\nsettings of {recipe}method {method} (type, default; key=value on the command line):")
    for key, kind, default, meaning in found:
        print(f"  {key}\n      {meaning} ({kind}, default {default})")
    return 0


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", help='encoder or run folder, or "hsv" or "pixels" (nothing learned)'
    )
    _dataset_arguments(parser)
    parser.add_argument("--out", type=Path, help="folder for the page and JSON (default: the run)")
    _common(parser, "--ap", help="rule called mAP")
    _rerank_arguments(parser, "also after k-reciprocal re-ranking")
    parser.add_argument("--seed", type=int, default=0, help="of protocols that draw images")
    _common(parser, "--device", "--json", "--quiet")


def _evaluate(options: argparse.Namespace) -> int:
    from crosscam import evaluate
    from crosscam.files import require_place

    if options.out:
        require_place(options.out, folder=True)
    model = _model(options)
    result = evaluate.evaluate(
        model,
        _test_set(options, model),
        ap=options.ap,
        rerank=_reranking(options),
        seed=options.seed,
        progress=not options.quiet,
    )
    out = options.out
    # A run keeps its pages; an encoder is passed on, and pages show pictures of people.
    if out is None and (Path(options.model) / "recipe.yaml").is_file() and model.recipe:
        out = result.place_in(Path(options.model))
    print(json.dumps(result.summary(), indent=1) if options.json else result.text(), flush=True)
    page = result.write(out) if out else None
    if page and not options.json:
        print(f"page     {page}")
    return 0


def _model(options: argparse.Namespace) -> Any:
    """The model of a command: an encoder, a run or a descriptor."""
    from crosscam import embedder
    from crosscam.card import is_encoder
    from crosscam.encoder import Encoder
    from crosscam.models import resolve

    if is_encoder(resolve(options.model)):
        return Encoder.load(options.model, device=options.device).embedder()
    return embedder.load(options.model, device=options.device)


def _test_set(options: argparse.Namespace, model: Any) -> Any:
    """The data set that was asked for, or the one that the model was trained on."""
    if options.data:
        return _dataset(options)
    if options.option or options.partial:
        raise InputError("--option and --partial belong to --data: give --data and --root as well.")
    own = model.recipe and model.recipe.data
    if own is None or not (own.root or options.root):  # an encoder, or a run that was converted
        raise InputError(f"'{model.name}' was not trained on a data set: give --data and --root.")
    if not options.root and not Path(own.root).exists():
        raise InputError(
            f"the data of '{model.name}' ({own.name}) are not at {own.root} any more: say where "
            "they are with --root."
        )
    return own.load(options.root or "")


def _search_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", type=Path, nargs="+", help="one or several query pictures")
    parser.add_argument("--gallery", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--model", required=True, help="encoder or run folder, hsv or pixels")
    parser.add_argument("--top", type=int, default=10, help="matches per query")
    parser.add_argument("--out", type=Path, default=Path("search.html"),
                        help="page to write, or .jpg or .png: a picture")  # fmt: skip
    _common(parser, "--skip-bad", "--device", "--json", "--quiet")


def _search(options: argparse.Namespace) -> int:
    from crosscam.files import require_place
    from crosscam.search import search
    from crosscam.viz import PICTURES

    if options.top < 1:
        raise InputError(f"--top must be 1 or more, got {options.top}.")
    require_place(options.out)
    model = _model(options)
    found = search(
        model,
        options.query,
        options.gallery,
        top=options.top,
        skip=options.skip_bad,
        progress=not options.quiet,
    )
    if found.failed:
        said = f"{len(found.failed):,}{first_lines(found.failed, 20)}"
        print(f"left out, since they cannot be used: {said}", file=sys.stderr)
    written = found.write(options.out)
    if options.json:
        rows = [
            {
                "query": str(row.query),
                "matches": [{"path": str(h.path), "score": round(h.score, 6)} for h in row.hits],
            }
            for row in found.rows()
        ]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    for row in found.rows():
        print(f"query {row.query}")
        for rank, hit in enumerate(row.hits, 1):
            print(f"  {rank:3d}  {hit.score:.3f}  {hit.path}")
    print(f"{'picture' if written.suffix.lower() in PICTURES else 'page'}  {written}")
    return 0


def _explain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="+", metavar="RUN|IMAGE",
                        help="one or several run folders, then pictures")  # fmt: skip
    parser.add_argument("--images", type=Path, nargs="+", default=[], help="more pictures")
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("explain.jpg"), help="sheet to write"
    )
    _common(parser, "--device")


def _explain(options: argparse.Namespace) -> int:
    from crosscam import embedder
    from crosscam.explain import explain

    first, *rest = options.what
    if Path(first).is_file():
        raise InputError(f"{first} is no run: give the folder of one first, and then pictures.")
    runs = [first, *(r for r in rest if (Path(r) / "recipe.yaml").is_file())]
    pictures = [Path(r) for r in rest if r not in runs] + options.images
    models = [embedder.load(run, device=options.device, learned=True) for run in runs]
    print(f"sheet  {explain(models, pictures, options.out)}")
    return 0


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("out", type=Path, help="folder to create")
    parser.add_argument("--format", choices=("onnx", "openvino", "torch"), default="onnx",
                        help="default: onnx")  # fmt: skip
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32",
                        help="of the weights; int8 also of the layers (default: fp32)")  # fmt: skip
    parser.add_argument("--calibration", type=Path, metavar="FOLDER",
                        help="pictures that int8 is fitted to")  # fmt: skip
    _common(parser, "--images")
    parser.add_argument("--name", default="", help="what it is called (default: the run)")
    parser.add_argument("--license", default="", help="of the weights")
    parser.add_argument("--terms", default="", help="what the owners of the training data allow")
    parser.add_argument("--limit", action="append", default=[], metavar="SENTENCE",
                        help="what it is not good for, for the card")  # fmt: skip
    _dataset_arguments(parser, "data set to measure it on, for the card; int8 needs one")
    _common(parser, "--quiet")


def _export(options: argparse.Namespace) -> int:
    from crosscam.export import Statement, export

    measure = None
    if options.data:
        measure = _dataset(options)
    elif options.root or options.option or options.partial:
        raise InputError("--root, --option and --partial belong to --data: give --data as well.")
    card = export(
        options.source,
        options.out,
        format=options.format,
        precision=options.precision,
        calibration=options.calibration,
        pictures=options.images,
        measure=measure,
        statement=Statement(options.name, options.license, options.terms, tuple(options.limit)),
        progress=not options.quiet,
    )
    print(f"{card.text()}\nencoder: {options.out}\nnext:   crosscam embed FOLDER --model "
          f"{options.out}")  # fmt: skip
    return 0


def _wrap_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="ONNX", help="takes float32 [N, 3, H, W]")
    parser.add_argument("out", type=Path, help="folder to create")
    parser.add_argument("--size", required=True, help="HEIGHTxWIDTH it was trained with")
    parser.add_argument("--mean", type=float, nargs=3, metavar="M", help="of RGB in [0, 1] "
                        "(default: ImageNet)")  # fmt: skip
    parser.add_argument("--std", type=float, nargs=3, metavar="S", help="of RGB in [0, 1] "
                        "(default: ImageNet)")  # fmt: skip
    parser.add_argument("--interpolation", choices=("bilinear", "bicubic"), default="bilinear")
    parser.add_argument("--channels", choices=("rgb", "bgr"), default="rgb", help="what it takes")
    parser.add_argument("--flip", action="store_true", help="add the mirrored picture's features")
    parser.add_argument("--format", choices=("onnx", "openvino"), default="onnx")
    parser.add_argument("--name", required=True, help="what it is called")
    parser.add_argument("--license", required=True, help="of the weights")
    parser.add_argument("--terms", required=True, help="what the owners of its data allow")
    _common(parser, "--images")
    _common(parser, "--quiet")


def _wrap(options: argparse.Namespace) -> int:
    from crosscam.export import Statement, wrap
    from crosscam.image import IMAGENET_MEAN, IMAGENET_STD, Preprocess

    preprocess = Preprocess(
        size=_size(options.size),
        interpolation=options.interpolation,
        mean=tuple(options.mean or IMAGENET_MEAN),
        std=tuple(options.std or IMAGENET_STD),
    )
    card = wrap(
        options.source,
        options.out,
        preprocess=preprocess,
        statement=Statement(options.name, options.license, options.terms),
        channels=options.channels,
        flip=options.flip,
        format=options.format,
        pictures=options.images,
        progress=not options.quiet,
    )
    print(f"{card.text()}\nencoder: {options.out}\nnext:   crosscam doctor {options.out}")
    return 0


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text)
    if match is None:
        raise InputError(f"--size must be HEIGHTxWIDTH, as 256x128, got {text!r}.")
    return int(match[1]), int(match[2])


def _embed_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="folder of pictures, or of a data set")
    parser.add_argument("--model", required=True, help="encoder or run folder, or name of a model")
    parser.add_argument("-o", "--out", type=Path, default=Path("features.npz"),
                        help="file to write (default: features.npz)")  # fmt: skip
    parser.add_argument("--data", metavar="NAME", help="read the folder as this data set")
    _benchmark_arguments(parser)
    _common(parser, "--skip-bad")
    _common(parser, "--runtime", help="what computes; auto: the quickest")
    parser.add_argument("--threads", type=int, default=0, help="processor threads; 0 is all")
    parser.add_argument("--precision", choices=("float32", "native"), default="float32",
                        help="native: an fp16 encoder in the processor's 16 bits, quicker and a "
                        "little off")  # fmt: skip
    _common(parser, "--device")
    _common(parser, "--quiet", help="no progress bar")


def _embed(options: argparse.Namespace) -> int:
    from crosscam.embed import embed_dataset, embed_folder
    from crosscam.encoder import Encoder
    from crosscam.files import require_place

    if options.option and not options.data:
        raise InputError("--option belongs to --data: give --data as well.")
    require_place(options.out)
    encoder = Encoder.load(
        options.model,
        runtime=options.runtime,
        device=options.device,
        threads=options.threads,
        precision=options.precision,
    )
    common = {"skip": options.skip_bad, "progress": not options.quiet}
    if options.data:
        dataset = _read(options.data, options.source, options.option, partial=options.partial)
        print(embed_dataset(encoder, dataset, options.out, **common).text())
    else:
        print(embed_folder(encoder, options.source, options.out, **common).text())
    return 0


def _score_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("features", type=Path, help="query_features, query_pids, query_camids, ...")
    _rerank_arguments(parser, "after k-reciprocal re-ranking")
    _common(parser, "--ap", default="rank-precision", help="AP rule")
    parser.add_argument("--metric", choices=("cosine", "euclidean"), default="cosine")
    parser.add_argument("--same-camera", choices=("drop", "keep"), default="drop",
                        help="images of the query's own person and camera")  # fmt: skip
    _common(parser, "--json")


def _score(options: argparse.Namespace) -> int:
    from crosscam.retrieval import score_file

    metrics = score_file(
        options.features,
        rerank=_reranking(options),
        ap=options.ap,
        metric=options.metric,
        same_camera=options.same_camera,
    )
    print(json.dumps(metrics.to_json()) if options.json else metrics.table())
    return 0


def _describe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(takes_settings=True)
    parser.add_argument("method", help="method or recipe, by name or file; then "
                        "KEY=VALUE ...")  # fmt: skip
    parser.add_argument("--num-classes", type=int, default=751, help="training identities")
    _common(parser, "--json")


def _describe(options: argparse.Namespace) -> int:
    from crosscam import methods
    from crosscam.describe import describe
    from crosscam.recipe import parse, shipped

    if options.num_classes < 1:  # before torch warns of layers without outputs
        raise InputError(f"--num-classes must be 1 or more, got {options.num_classes}.")
    source, settings = _described(options.method)
    if source is None and not settings:
        known = methods.available()
        hint = did_you_mean(options.method, [*known, *shipped()])
        raise RecipeError(
            f"'{options.method}' is neither a method nor a recipe.{hint} Methods: "
            f"{', '.join(known)}; recipes: {', '.join(shipped())}; or give a .py file of yours, or "
            "a .yaml file."
        )
    recipe = parse(source, [*settings, *options.settings])
    method = recipe.method.blank.build(options.num_classes)  # no weights are needed to count them
    result = describe(method, recipe.preprocess.size)
    print(result.to_json() if options.json else f"{options.method}: {method.paper}\n{result}")
    return 0


def _described(name: str) -> tuple[str | None, list[str]]:
    """What `describe` was given, as recipe and settings: a recipe, a method, or neither."""
    from crosscam import methods
    from crosscam.recipe import shipped

    known = methods.available()
    if name not in known and (name in shipped() or name.endswith((".yaml", ".yml"))):
        return name, []
    if name in known or name.endswith(".py") or "+" in name:
        return None, [f"method.name={name}"]
    return None, []


def _data_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(title="verbs", dest="verb", required=True)
    check = verbs.add_parser("check", help="Compare a data set with what it should hold.")
    _common(check, "name", "root", "--partial")
    check.add_argument("--no-decode", action="store_true", help="do not open the pictures")
    _common(check, "--option", "--json")
    listing = verbs.add_parser("list", help="Names of the data sets that can be read.")
    _common(listing, "--json")
    holding = verbs.add_parser(
        "holdout", help="A list in which some people of a training set are query and gallery."
    )
    _common(holding, "name", "root")
    holding.add_argument("out", type=Path, help="the list to write: a CSV file")
    holding.add_argument("--people", type=int, help="how many are kept out (default: a fifth)")
    holding.add_argument("--seed", type=int, default=0, help="of their choice")
    _common(holding, "--partial", "--option")
    joining = verbs.add_parser("join", help="Several data sets as one list to train on.")
    joining.add_argument("out", type=Path, help="the list to write: a CSV file")
    joining.add_argument("--set", dest="sets", action="append", nargs="+", required=True,
                         metavar=("NAME", "ROOT|KEY=VALUE"),
                         help="a data set, its folder and options; once for each")  # fmt: skip
    joining.add_argument("--no-test", action="store_true",
                         help="without query and gallery of the first set")  # fmt: skip
    _common(joining, "--partial", help="accept subsets")


def _data(options: argparse.Namespace) -> int:
    from crosscam.data import check

    if options.verb == "list":
        return check.main_list(as_json=options.json)
    if options.verb == "join":
        return _join(options)
    if options.verb == "holdout":
        return _holdout(options)
    return check.main_check(
        options.name,
        options.root,
        partial=options.partial,
        decode=not options.no_decode,
        as_json=options.json,
        options=options.option,
    )


def _holdout(options: argparse.Namespace) -> int:
    from crosscam.data.holdout import hold_out

    settings = options.option
    # Where own pictures have no splits, half of the people would be test people, and be lost here.
    if options.name in ("folder", "csv") and not any("train_fraction" in s for s in settings):
        settings = [*settings, "train_fraction=1"]
    dataset = _read(options.name, options.root, settings, partial=options.partial)
    found = hold_out(dataset, options.out, people=options.people, seed=options.seed)
    print(f"{options.out}: {found.text()}")
    print(f"next:   crosscam train cpu data.name=csv data.root={options.out}")
    return 0


def _join(options: argparse.Namespace) -> int:
    from crosscam.data.join import join

    sets = []
    for name, *words in options.sets:
        if not words or "=" in words[0]:
            raise InputError(f"--set {name} lacks a folder: --set NAME ROOT [KEY=VALUE ...].")
        sets.append(_read(name, words[0], words[1:], partial=options.partial))
    count = join(sets, options.out, test=not options.no_test)
    print(f"{options.out}: {', '.join(f'{n:,} {split}' for split, n in count.items())} pictures")
    print(f"next:   crosscam train cpu data.name=csv data.root={options.out}")
    return 0


def _synth_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, help="folder to write (or the picture, with --sheet)")
    parser.add_argument("--ids", type=int, default=100, help="people")
    parser.add_argument("--cameras", type=int, default=6)
    parser.add_argument("--seen", type=int, default=0, metavar="N", help="cameras that see a "
                        "person, drawn for each (default: all)")  # fmt: skip
    parser.add_argument("--shots", type=int, default=4, help="pictures per person and camera")
    parser.add_argument("--preset", default="market-like", help="market-like, occluded, partial, "
                        "cross-domain or cloth-change")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=0, metavar="N",
                        help="whole pictures per training person, for its texture")  # fmt: skip
    parser.add_argument("--families", type=float, default=0.3,
                        help="share of people in near-identical outfits, 0 to 1")  # fmt: skip
    parser.add_argument("--assets", type=Path, metavar="DIR",
                        help="a copy of makehuman-assets: its CC0 garments and hair")  # fmt: skip
    parser.add_argument("--train-share", type=float, default=0.5, help="share of training people")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 is one per processor")
    parser.add_argument("--sheet", action="store_true", help="write a contact sheet instead")
    _common(parser, "--quiet", help="no progress bar")


def _synth(options: argparse.Namespace) -> int:
    from crosscam.synth import contact_sheet, synthesize

    if options.sheet:
        print(
            contact_sheet(
                options.out, cameras=options.cameras, seed=options.seed, assets=options.assets
            )
        )
        return 0
    folder = synthesize(
        options.out,
        ids=options.ids,
        cameras=options.cameras,
        shots=options.shots,
        preset=options.preset,
        seed=options.seed,
        workers=options.workers or cores(),
        pairs=options.pairs,
        families=options.families,
        train_share=options.train_share,
        assets=options.assets,
        seen=options.seen,
        progress=not options.quiet,
    )
    print(f"rendered people: {folder}")
    print(f"next:   crosscam train demo data.name=rendered data.root={folder}")
    return 0


def _prior_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(title="verbs", dest="verb", required=True)
    points = kinds.add_parser("keypoints", help="Joints, from a pose network or a table.")
    points.add_argument("--model", default="", metavar="FILE",
                        help="pose network, ONNX or TFLite, or rtmlib:balanced")  # fmt: skip
    points.add_argument("--csv", type=Path, help="table: file, JOINT_x, JOINT_y, ... in pixels")
    masks = kinds.add_parser("masks", help="Part masks, from keypoints or a network.")
    masks.add_argument("--model", default="", metavar="FILE",
                       help="parsing network (ONNX), or a run of `train parts`")  # fmt: skip
    masks.add_argument("--keypoints", default="", metavar="PRODUCER", help="whose keypoints")
    masks.add_argument("--least", type=float, default=0.2, help="least visibility of a joint")
    surface = kinds.add_parser("surface", help="Places on the body, from a run of `train parts`.")
    surface.add_argument("--model", default="", metavar="RUN", help="the run")
    texture = kinds.add_parser("texture", help="Textures, from a run of `train san_pg` or `parts`.")
    texture.add_argument("--model", default="", metavar="RUN", help="the run")
    texture.add_argument("--mirror", action="store_true",
                         help="color what a picture does not show like the other side")  # fmt: skip
    show = kinds.add_parser("show", help="A contact sheet of random pictures with their priors.")
    for verb, out in (
        (points, "folder of its priors"),
        (masks, "folder of its priors"),
        (surface, "folder of its priors"),
        (texture, "folder of its priors"),
        (show, "picture to write"),
    ):
        _common(verb, "name")
        _common(verb, "--root", required=True)
        _common(verb, "--partial", "--option")
        verb.add_argument("--out", type=Path, required=True, help=out)
        if verb is not show:
            _common(verb, "--quiet", help="no progress bar")
    for verb in (masks, surface, texture):
        _common(verb, "--device")
    show.add_argument("--priors", type=Path, help="folder of its priors (rendered people: none)")
    show.add_argument(
        "--kind", choices=("masks", "keypoints", "surface", "texture"), help="only these"
    )
    show.add_argument("--count", type=int, default=24, help="pictures")
    show.add_argument("--seed", type=int, default=0, help="of their choice")
    for kind in ("masks", "keypoints", "surface", "texture"):
        show.add_argument(f"--{kind}", default="", metavar="PRODUCER",
                          help="which, where the folder has several")  # fmt: skip
    listed = kinds.add_parser("list", help="What a folder of priors holds.")
    place = listed.add_mutually_exclusive_group(required=True)
    place.add_argument("folder", type=Path, nargs="?", help="folder of priors")
    place.add_argument("--priors", type=Path, help="the same, as the other verbs name it")


def _prior(options: argparse.Namespace) -> int:
    from crosscam.annotate import run

    return run(options)


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help=".safetensors, or a PyTorch file of tensors")
    parser.add_argument("out", type=Path, help="run folder to create")
    parser.add_argument("--toolkit", default="auto",
                        help="torchreid, fast-reid, strong-baseline, or auto")  # fmt: skip
    parser.add_argument("--last-stride", type=int, choices=(1, 2), help="of a ResNet")
    parser.add_argument("--stem", choices=("standard", "no-relu", "ceil-pool"), help="of a ResNet")
    parser.add_argument("--size", default="256x128", help="HEIGHTxWIDTH it was trained with")
    parser.add_argument("--trained-on", default="unknown", help="the data, for the card")
    parser.add_argument("--terms", default="unknown", help="what the owners of the data allow")
    parser.add_argument("--license", default="unknown", help="license of the weights")


def _convert(options: argparse.Namespace) -> int:
    from crosscam.convert import convert

    found = convert(
        options.file,
        options.out,
        toolkit=options.toolkit,
        last_stride=options.last_stride,
        stem=options.stem,
        size=_size(options.size),
        trained_on=options.trained_on,
        terms=options.terms,
        license=options.license,
    )
    print(found.text())
    return 0


def _average_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN",
                        help="runs of one network; the recipe is the last one's")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="run folder to create")


def _average(options: argparse.Namespace) -> int:
    from crosscam.average import average

    print(average(options.runs, options.out).text())
    print(f"next:   crosscam evaluate {options.out}")
    return 0


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="encoder or run folder, or name of a model")
    _common(parser, "--images", help="pictures of people (default: rendered ones)")
    parser.add_argument("--run", dest="trained", type=Path, metavar="RUN",
                        help="compare with the run it was exported from")  # fmt: skip
    _common(parser, "--runtime", help="what computes")
    parser.add_argument("--check", action="append", default=[], metavar="NAME",
                        help="only this (may be repeated)")  # fmt: skip
    _common(parser, "--json")


def _doctor(options: argparse.Namespace) -> int:
    from crosscam.doctor import examine

    report = examine(
        options.model,
        images=options.images,
        run=options.trained,
        runtime=options.runtime,
        only=options.check,
    )
    print(report.to_json() if options.json else report.text())
    return 1 if report.status == "FAIL" else 0


def _models_arguments(parser: argparse.ArgumentParser) -> None:
    from crosscam.models import add_arguments

    add_arguments(parser)


def _models(options: argparse.Namespace) -> int:
    from crosscam.models import main as models

    return models(options)


def _gallery_arguments(parser: argparse.ArgumentParser) -> None:
    from crosscam.gallery.command import add_arguments

    add_arguments(parser)


def _gallery(options: argparse.Namespace) -> int:
    from crosscam.encoder import Encoder
    from crosscam.gallery.command import run

    return run(options, Encoder.load)


def _calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="encoder or run folder")
    _dataset_arguments(parser)
    parser.add_argument(
        "--pairs", type=Path, metavar="CSV", help="a, b (pictures), same (1 or 0); not with --data"
    )
    parser.add_argument("--far", type=float, default=0.01, help="false-accept rate to print")
    parser.add_argument("--out", type=Path, help="folder to write to (default: the model)")
    parser.add_argument("--seed", type=int, default=0, help="of the split and the intervals")
    _common(parser, "--json", "--quiet")


def _calibrate(options: argparse.Namespace) -> int:
    import dataclasses

    from crosscam import calibrate
    from crosscam.decision.calibration import FILE, RATES
    from crosscam.encoder import Encoder
    from crosscam.files import require_place
    from crosscam.models import is_shipped, resolve

    out = options.out or resolve(options.model)
    if options.out is None and is_shipped(out):
        raise InputError(
            f"{options.model} comes with the package, where nothing of yours should lie: say with "
            "--out FOLDER where its calibration goes, and give that to others with "
            f"--calibration FOLDER/{FILE}."
        )
    if (options.pairs is None) == (options.data is None):
        raise InputError("give either --data and --root, or --pairs.")
    if not RATES[0] <= options.far <= RATES[-1]:  # before minutes of embedding
        raise InputError(f"--far must be in [{RATES[0]}, {RATES[-1]}], got {options.far}.")
    require_place(out, folder=True)
    encoder = Encoder.load(options.model)

    def embed(paths: Sequence[Path]) -> Any:
        return encoder.files(paths, progress=not options.quiet)

    if options.pairs is not None:
        pairs = calibrate.read_pairs(options.pairs)
        found = calibrate.calibrate_pairs(
            embed, pairs, model=encoder.hash, data=options.pairs.name, seed=options.seed
        )
    else:
        found = calibrate.calibrate(embed, _dataset(options), model=encoder.hash, seed=options.seed)
    out.mkdir(parents=True, exist_ok=True)
    found.calibration.save(out / FILE)
    page = found.report(out / "calibration.html")
    if options.json:
        print(json.dumps(dataclasses.asdict(found.calibration), indent=1))
    else:
        print(found.text(options.far))
        print(f"page            {page}")
    return 0


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    from crosscam.serve.command import add_serve

    add_serve(parser)


def _serve(options: argparse.Namespace) -> int:
    from crosscam.serve.command import serve

    return serve(options)


def _token_arguments(parser: argparse.ArgumentParser) -> None:
    from crosscam.serve.command import add_token

    add_token(parser)


def _token(options: argparse.Namespace) -> int:
    from crosscam.serve.command import token

    return token(options)


def _methods(_options: argparse.Namespace) -> int:
    from crosscam import methods, recipe
    from crosscam.nn import backbones

    for name in methods.available():
        print(f"method    {name:12s} {methods.find(name).paper}")
    print(f"backbones {', '.join(backbones.available())}, timm:NAME")
    print(f"recipes   {', '.join(recipe.shipped())}")
    return 0
