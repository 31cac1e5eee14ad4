"""Ranks the models of a real MLflow server, and writes the scores back.

    python3 -m venv .mlflow && .mlflow/bin/pip install -r scripts/requirements/mlflow.txt
    .mlflow/bin/python scripts/check_registry.py [--gradalign target/debug/gradalign]

A server with authentication is started on this machine, and models are registered by MLflow's own client in
every way that it has: logged, as a folder of files, by the address of a run, of a file, of another version.
Others are broken on purpose. Then `gradalign rank` ranks them all. What is checked: the versions, their names
and scores; that each broken one has a row that says why; tags, metrics and the report, by MLflow's client; that
a second run downloads, computes and writes nothing; aliases, filters, `models:/`, shards, a dry run; a wrong
password, which is in no message. Then the same over TLS with an authority and a client certificate of its own, and
with a server that keeps its files to itself (`--no-serve-artifacts`). Where `docker-registry` and `htpasswd` are
installed, artifacts that oras pushes to it are ranked, too.
"""

import argparse
import base64
import contextlib
import datetime
import ipaddress
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import mlflow
import onnx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODELS, EXTRA = ROOT / "models", ROOT / "fixtures" / "extra"
USER, PASSWORD = "admin", "correct-horse-battery"
SCORES = ["params", "naswot", "gradalign-1"]
SETTINGS = ["--data", str(ROOT / "fixtures" / "digits-30.npz"), "--metric", ",".join(SCORES), "--engine", "tract"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def server(folder, *options, scheme="http", auth=True):
    """An MLflow server with its files in `folder`."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    config = folder / "auth.ini"
    config.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "auth_cache_ttl_seconds = 60\n")
    environment = clean() | {
        "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_AUTH_ADMIN_USERNAME": USER, "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "for this test", "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
               "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", *options]
    if auth:
        command += ["--app-name", "basic-auth"]
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(240):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
            time.sleep(0.5)
        time.sleep(2)
        yield f"{scheme}://127.0.0.1:{port}", folder / "server.log"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def clean():
    """The environment without what MLflow takes from it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "GRADALIGN_"))}


def ask(url, **environment):
    """Points MLflow's client to a server."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    os.environ.update(MLFLOW_TRACKING_USERNAME=USER, MLFLOW_TRACKING_PASSWORD=PASSWORD, **environment)
    mlflow.set_tracking_uri(url)
    mlflow.set_registry_uri(url)
    return MlflowClient()


class Rank:
    """`gradalign rank`, with a cache and a store that last."""

    def __init__(self, program, folder):
        self.program, self.folder = program, folder

    def __call__(self, *arguments, code=0, verbose=False, cache="cache", **environment):
        command = [self.program, "rank", *arguments, *SETTINGS, "--store", str(self.folder / "store.db"),
                   "--format", "json", *(["-v"] if verbose else [])]
        own = {"GRADALIGN_CACHE": str(self.folder / cache), "HOME": str(self.folder), **environment}
        done = subprocess.run(command, env=clean() | own, capture_output=True, text=True)
        assert done.returncode == code, f"{done.returncode}: {done.stderr}\n{done.stdout[-2000:]}"
        assert PASSWORD not in done.stderr + done.stdout
        return (json.loads(done.stdout) if done.stdout else None), done.stderr


LOGIN = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}


def register(client, folder):
    """Models in every way that there is. Gives the file that each good version is, and what each broken one's row
    must say."""
    load = lambda name: onnx.load(MODELS / f"{name}.onnx")
    good, broken = {}, {}
    mlflow.set_experiment("nets")

    for i, (model, options) in enumerate([("mlp", {}), ("plain-cnn", {"save_as_external_data": False})]):
        with mlflow.start_run():
            # Read anew each time: what has been logged has lost its tensors.
            mlflow.onnx.log_model(load(model), name="model", registered_model_name="net-a", **options)
        good[f"net-a@{i + 1}"] = model
    first = client.get_model_version("net-a", "1")
    assert first.source.startswith("models:/m-"), first.source

    mlflow.onnx.save_model(load("resnet20"), str(folder / "whole"))
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(folder / "whole"), "folder")
        mlflow.register_model(f"runs:/{run.info.run_id}/folder", "net-b")
    good["net-b@1"] = "resnet20"

    with mlflow.start_run() as run:
        mlflow.log_artifact(str(MODELS / "vit.onnx"), "export")
        deep = folder / "deep"
        deep.mkdir()
        for name in ["external.onnx", "external.bin"]:
            shutil.copy(EXTRA / name, deep / name)
        mlflow.log_artifacts(str(deep), "nested/deep")
        root, run_id = mlflow.get_artifact_uri(), run.info.run_id
    client.create_model_version("net-b", f"runs:/{run_id}/export/vit.onnx", run_id)
    client.create_model_version("net-b", f"{root}/export/vit.onnx", run_id)
    client.create_model_version("net-b", f"{root}/nested", run_id)
    good |= {"net-b@2": "vit", "net-b@3": "vit", "net-b@4": EXTRA / "external.onnx"}

    client.copy_model_version("models:/net-a/1", "net-copy") if hasattr(client, "copy_model_version") else None
    good["net-copy@1"] = "mlp"
    with mlflow.start_run():
        mlflow.onnx.log_model(load("mobilenet"), name="model", registered_model_name="größe & co")
    good["größe & co@1"] = "mobilenet"

    client.create_registered_model("broken")
    client.create_model_version("broken", "s3://bucket/model")
    broken["broken@1"] = ["s3://bucket/model", "serve-artifacts"]
    client.create_model_version("broken", f"runs:/{run_id}/nothing", run_id)
    broken["broken@2"] = ["no files"]
    empty = client.create_logged_model(mlflow.get_experiment_by_name("nets").experiment_id, "empty")
    client.finalize_logged_model(empty.model_id, LoggedModelStatus.READY)
    client.create_model_version("broken", f"models:/{empty.model_id}", model_id=empty.model_id)
    broken["broken@3"] = ["no files"]
    with mlflow.start_run() as run:
        for name, files in {"lost": [EXTRA / "external.onnx"], "two": [MODELS / "mlp.onnx", MODELS / "vit.onnx"],
                            "none": [ROOT / "README.md"], "damaged": [ROOT / "fixtures/broken/truncated.onnx"]}.items():
            for file in files:
                mlflow.log_artifact(str(file), name)
        broken_root = mlflow.get_artifact_uri()
    for i, (name, says) in enumerate({
            "lost": ["'external.bin', which cannot be opened"], "two": ["2 models: mlp.onnx, vit.onnx", "name one"],
            "none": ["no .onnx file"], "damaged": ["truncated"]}.items()):
        client.create_model_version("broken", f"{broken_root}/{name}", run.info.run_id)
        broken[f"broken@{i + 4}"] = says

    client.set_registered_model_alias("net-a", "champion", "2")
    client.set_model_version_tag("net-b", "1", "task", "vision")
    return good, broken


def expected(program, good):
    """The scores of the files themselves."""
    files = {str(MODELS / f"{m}.onnx") if isinstance(m, str) else str(m) for m in good.values()}
    done = subprocess.run([program, "rank", *sorted(files), *SETTINGS, "--format", "json"], env=clean(),
                          capture_output=True, text=True, check=True)
    return {pathlib.Path(m["path"]).stem: values(m) for m in json.loads(done.stdout)["models"]}


def values(model):
    return {score: model["scores"][score]["value"] for score in SCORES}


def rows(report):
    return {model["name"]: model for model in report["models"]}


def downloads(log):
    return [line for line in log.read_text().splitlines() if "GET" in line and ".onnx" in line and '" 200' in line]


def check_ranking(program, rank, client, url, log, folder):
    good, broken = register(client, folder)
    print(f"{len(good)} good and {len(broken)} broken versions of {len(client.search_registered_models())} models")
    host = url.removeprefix("http")
    source = f"mlflow{host}"
    reference = expected(program, good)

    start = time.time()
    report, said = rank(source, "--write-back", code=1, **LOGIN)
    found = rows(report)
    assert set(found) == set(good) | set(broken), sorted(found)
    for name, model in good.items():
        stem = model if isinstance(model, str) else model.stem
        assert found[name]["error"] is None, found[name]
        assert values(found[name]) == reference[stem], (name, values(found[name]), reference[stem])
    for name, says in broken.items():
        message = found[name]["error"]["message"]
        assert all(what in message for what in says), f"{name}: {message}"
        print(f"  {name}: {message[:180]}")
    print(f"ranked and written back in {time.time() - start:.1f} s: {said.strip().splitlines()[-1]}")

    before = written(client, found, good)
    start, lines = time.time(), len(downloads(log))
    report, said = rank(source, "--write-back", code=1, verbose=True, **LOGIN)
    again = rows(report)
    assert all(again[n]["seconds"] == found[n]["seconds"] for n in good), "computed again"
    assert "downloading" not in said and "all was there already" in said, said
    assert len(downloads(log)) == lines, downloads(log)[lines:]
    assert written(client, again, good) == before
    print(f"the second time nothing is downloaded, computed or written, in {time.time() - start:.1f} s")

    best, _ = rank(f"{source}/net-a@champion", **LOGIN)
    assert [m["model"] for m in best["models"]] == ["net-a@2"]
    tagged, _ = rank(source, "--filter", "tags.task = 'vision'", **LOGIN)
    assert list(rows(tagged)) == ["net-b@1"], list(rows(tagged))
    latest, _ = rank("models:/net-a/latest", MLFLOW_TRACKING_URI=url, **LOGIN)
    assert latest["models"][0]["path"] == "models:/net-a/2"
    one, _ = rank(f"{source}/broken/5/vit.onnx", **LOGIN)
    assert values(one["models"][0]) == reference["vit"]
    parts = [set(rows(rank(source, "--shard", f"{i}/2", code=1, **LOGIN)[0])) for i in (1, 2)]
    assert parts[0] | parts[1] == set(found) and not parts[0] & parts[1]
    saved = folder / ".mlflow"
    saved.mkdir()
    (saved / "credentials").write_text(
        f"[mlflow]\nmlflow_tracking_username = {USER}\nmlflow_tracking_password = {PASSWORD}\n")
    rank(f"{source}/net-a")
    shutil.rmtree(saved)
    _, said = rank(f"{source}/net-b/1", "--write-back", "--dry-run", "--seed", "7", **LOGIN)
    assert "would send POST model-versions/set-tag" in said, said
    assert written(client, again, good) == before
    print("aliases, filters, models:/, files by path, shards, saved credentials and a dry run are fine")

    once = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    _, said = rank(source, code=2, MLFLOW_TRACKING_TOKEN="hunter2-token", **once)
    assert "hunter2" not in said, said
    _, said = rank(source, code=2)
    assert "MLFLOW_TRACKING_USERNAME" in said, said
    _, said = rank(source, code=2, MLFLOW_TRACKING_USERNAME=USER, MLFLOW_TRACKING_PASSWORD="hunter2-wrong")
    assert "does not accept these credentials" in said and "hunter2" not in said, said
    print(f"a wrong password: {said.strip()}")


def written(client, found, good):
    """What the registry has of the scores, checked against the report."""
    all = {}
    shared = {"net-b@2", "net-b@3", "net-b@4"}
    for name in good:
        version = client.get_model_version(*name.rsplit("@", 1))
        tags = {k: v for k, v in version.tags.items() if k.startswith("gradalign.")}
        # A score that a model does not have is not written.
        scores = {score: float(tags[f"gradalign.{score}"]) for score in SCORES if f"gradalign.{score}" in tags}
        assert scores == {s: v for s, v in values(found[name]).items() if v is not None}, (name, tags)
        assert len(tags["gradalign.settings"]) == 64 and tags["gradalign.version"]
        metrics = client.get_run(version.run_id).data.metrics
        history = {s: len(client.get_metric_history(version.run_id, f"gradalign.{s}")) for s in scores}
        if name in shared:
            assert not any(key.startswith("gradalign.") for key in metrics), metrics
        else:
            assert {s: metrics[f"gradalign.{s}"] for s in scores} == scores
        if version.source.startswith("models:/m-"):
            logged = client.get_logged_model(version.source.removeprefix("models:/"))
            assert {m.key for m in logged.metrics} == {f"gradalign.{s}" for s in scores}, logged.metrics
        all[name] = (tags, history, version.current_stage, version.last_updated_timestamp)
    experiment = client.get_experiment_by_name("gradalign")
    reports = client.search_runs([experiment.experiment_id])
    files = {}
    for run in reports:
        assert run.info.status == "FINISHED"
        listed = client.list_artifacts(run.info.run_id, "gradalign")
        files |= {file.path: file.file_size for file in listed}
    assert {"gradalign/report.html", "gradalign/ranking.json"} <= set(files), files
    all["reports"] = ([run.info.run_id for run in reports], files)
    all["alias"] = client.get_registered_model("net-a").aliases
    return all


def certificate(folder, name, issuer=None):
    """A certificate for 127.0.0.1 with its key, by `issuer`, or an authority of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    by, by_key = issuer or (subject, key)
    builder = (x509.CertificateBuilder().subject_name(subject).issuer_name(by).public_key(key.public_key())
               .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
               .not_valid_after(now + datetime.timedelta(days=2))
               .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
               .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False))
    signed = builder.sign(by_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                               serialization.NoEncryption())
    (folder / f"{name}.crt").write_bytes(signed)
    (folder / f"{name}.key").write_bytes(secret)
    (folder / f"{name}.pem").write_bytes(signed + secret)
    return subject, key


def check_tls(rank, folder):
    authority = certificate(folder, "authority")
    certificate(folder, "server", authority)
    certificate(folder, "client", authority)
    tls = (f"--ssl-keyfile={folder}/server.key --ssl-certfile={folder}/server.crt --ssl-ca-certs={folder}/authority.crt "
           "--ssl-cert-reqs=2")
    certificates = {"MLFLOW_TRACKING_SERVER_CERT_PATH": str(folder / "authority.crt"),
                    "MLFLOW_TRACKING_CLIENT_CERT_PATH": str(folder / "client.pem")}
    destination = f"file://{folder}/tls/artifacts"
    with server(folder / "tls", "--artifacts-destination", destination, "--serve-artifacts", "--uvicorn-opts", tls,
                scheme="https") as (url, _):
        client = ask(url, **certificates)
        mlflow.set_experiment("nets")
        with mlflow.start_run():
            mlflow.onnx.log_model(onnx.load(MODELS / "mlp.onnx"), name="model", registered_model_name="net")
        source = f"mlflows{url.removeprefix('https')}/net"
        rank(source, "--write-back", **LOGIN, **certificates)
        assert "gradalign.naswot" in client.get_model_version("net", "1").tags
        only = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        unknown = {"MLFLOW_TRACKING_CLIENT_CERT_PATH": certificates["MLFLOW_TRACKING_CLIENT_CERT_PATH"]}
        _, said = rank(source, code=2, **LOGIN, **unknown, **only)
        assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in said, said
        nobody = {"MLFLOW_TRACKING_SERVER_CERT_PATH": certificates["MLFLOW_TRACKING_SERVER_CERT_PATH"]}
        _, missing = rank(source, code=2, **LOGIN, **nobody, **only)
        assert "MLFLOW_TRACKING_CLIENT_CERT_PATH" in missing, missing
        rank(source, "--write-back", **LOGIN, MLFLOW_TRACKING_INSECURE_TLS="true", **unknown)
        print(f"TLS with an authority and a client certificate of one's own; without: {said.strip()}\n  {missing.strip()}")


def check_unserved(rank, folder):
    root = folder / "unserved" / "files"
    with server(folder / "unserved", "--default-artifact-root", str(root), "--no-serve-artifacts",
                auth=False) as (url, _):
        client = ask(url)
        mlflow.set_experiment("nets")
        with mlflow.start_run() as run:
            mlflow.onnx.log_model(onnx.load(MODELS / "mlp.onnx"), name="model", registered_model_name="net")
            mlflow.log_artifact(str(MODELS / "vit.onnx"), "export")
        client.create_model_version("net", f"runs:/{run.info.run_id}/export/vit.onnx", run.info.run_id)
        source = f"mlflow{url.removeprefix('http')}/net"
        report, said = rank(source, verbose=True)
        assert "downloading" in said, said
        local, said = rank(source, "--allow-local", str(root), verbose=True, cache="other")
        assert "downloading" not in said and not (folder / "other" / "mlflow").exists(), said
        assert {n: values(m) for n, m in rows(report).items()} == {n: values(m) for n, m in rows(local).items()}
        _, said = rank(source, "--write-back", code=1)
        assert "takes no files" in said, said
        assert "gradalign.naswot" in client.get_model_version("net", "1").tags
        print("a server that does not hand out files by their place hands them out by version")


def check_oci(program, rank, folder):
    if not (shutil.which("docker-registry") and shutil.which("htpasswd")):
        print("docker-registry and htpasswd are not here: OCI is NOT checked")
        return
    import oras.client

    files = folder / "oci"
    (files / "packed" / "deep").mkdir(parents=True)
    for name in ["external.onnx", "external.bin"]:
        shutil.copy(EXTRA / name, files / "packed" / "deep" / name)
        shutil.copy(EXTRA / name, files / name)
    for name in ["mlp.onnx", "vit.onnx"]:
        shutil.copy(MODELS / name, files / name)
    port = free_port()
    users = subprocess.run(["htpasswd", "-Bbn", USER, PASSWORD], capture_output=True, text=True, check=True).stdout
    (files / "users").write_text(users)
    (files / "config.yml").write_text(
        f"version: 0.1\nstorage:\n  filesystem: {{rootdirectory: {files}/blobs}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
        f"auth:\n  htpasswd: {{realm: test, path: {files}/users}}\n")
    with open(files / "log", "w") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(files / "config.yml")], stdout=log, stderr=log)
    host = f"127.0.0.1:{port}"
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        client = oras.client.OrasClient(hostname=host, insecure=True, auth_backend="basic")
        client.auth.set_basic_auth(USER, PASSWORD)
        with contextlib.chdir(files):
            for tag, pushed in {"one": ["mlp.onnx"], "data": ["external.onnx", "external.bin"], "packed": ["packed"],
                                "two": ["mlp.onnx", "vit.onnx"]}.items():
                client.push(target=f"{host}/models/net:{tag}", files=pushed, disable_path_validation=True)
        both = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        (files / "config.json").write_text(json.dumps({"auths": {host: {"auth": both}}}))
        login = {"DOCKER_CONFIG": str(files)}
        sources = [f"oci://{host}/models/net:{tag}" for tag in ["one", "data", "packed", "two!/vit.onnx"]]
        report, _ = rank(*sources, **login)
        reference = expected(program, {"a": "mlp", "b": EXTRA / "external.onnx", "c": "vit"})
        found = {m["path"].rsplit(":", 1)[1]: values(m) for m in report["models"]}
        assert found == {"one": reference["mlp"], "data": reference["external"], "packed": reference["external"],
                         "two!/vit.onnx": reference["vit"]}, found
        for source, environment, says in [(sources[0], {}, "docker login"), (f"oci://{host}/models/net:two", login, "name one"),
                                          (f"oci://{host}/models/net:no", login, "MANIFEST_UNKNOWN")]:
            report, _ = rank(source, code=1, **environment)
            message = report["models"][0]["error"]["message"]
            assert says in message, message
        print(f"artifacts of an OCI registry, by file, with data, packed and by path: {sorted(found)}")
    finally:
        process.terminate()
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gradalign", default=str(ROOT / "target" / "debug" / "gradalign"))
    parser.add_argument("--only", choices=["ranking", "tls", "unserved", "oci"])
    options = parser.parse_args()
    wanted = lambda name: options.only in (None, name)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        rank = Rank(options.gradalign, folder)
        if wanted("ranking"):
            destination = f"file://{folder}/main/artifacts"
            with server(folder / "main", "--artifacts-destination", destination, "--serve-artifacts") as (url, log):
                check_ranking(options.gradalign, rank, ask(url), url, log, folder)
        if wanted("tls"):
            check_tls(rank, folder)
        if wanted("unserved"):
            check_unserved(rank, folder)
        if wanted("oci"):
            check_oci(options.gradalign, rank, folder)
    print("all checks passed")


if __name__ == "__main__":
    main()
