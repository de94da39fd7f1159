"""A file through the AWS Encryption SDK's command line and back, and not back when the key is disabled.

Environment as for conformance.py; the command finds the server through AWS_ENDPOINT_URL_KMS alone.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import boto3

endpoint = os.environ.pop("AWS_ENDPOINT_URL")
os.environ["AWS_ENDPOINT_URL_KMS"] = endpoint
program = str(pathlib.Path(sys.executable).with_name("aws-encryption-cli"))
kms = boto3.client("kms")
key, other = (kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2))


def run(*arguments):
    return subprocess.run([program, *arguments], capture_output=True, text=True)


with tempfile.TemporaryDirectory() as scratch:
    plain, sealed, opened = (str(pathlib.Path(scratch) / name) for name in ("plain", "sealed", "opened"))
    secret = os.urandom(300_000)
    pathlib.Path(plain).write_bytes(secret)
    encrypt = ["--encrypt", "--input", plain, "--output", sealed, "--encryption-context", "purpose=test",
               "--suppress-metadata", "--wrapping-keys", f"key={key}"]
    done = run(*encrypt)
    assert done.returncode == 0, done.stderr
    assert secret[:100] not in pathlib.Path(sealed).read_bytes()

    def decrypt(key):
        pathlib.Path(opened).unlink(missing_ok=True)
        return run("--decrypt", "--input", sealed, "--output", opened, "--encryption-context", "purpose=test",
                   "--suppress-metadata", "--wrapping-keys", f"key={key}")

    done = decrypt(key)
    assert done.returncode == 0, done.stderr
    assert pathlib.Path(opened).read_bytes() == secret
    assert decrypt(other).returncode != 0 and not pathlib.Path(opened).exists()
    kms.disable_key(KeyId=key)
    done = decrypt(key)
    assert done.returncode != 0 and "Unable to decrypt any data key" in done.stderr, done.stderr
    kms.enable_key(KeyId=key)
    assert decrypt(key).returncode == 0
print("encryption sdk: ok")
