"""The AWS CLI over every operation of KMS, sts, iam and CloudTrail: commands as people type them.

aws_cli.py SECTION...

Encapsulate and Decapsulate are not in awscli's model yet; conformance.py has them. awscli runs in this process, since
starting it takes most of a command's time; a few commands are started as a program.
Environment as for conformance.py.
"""

import base64
import contextlib
import io
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

import awscli.clidriver

ACCOUNT, OTHER = "000000000000", "111122223333"
DRIVER = awscli.clidriver.create_clidriver()
os.environ["AWS_PAGER"] = ""


def attempt(command):
    """Status, output and errors of `aws COMMAND`."""
    out, errors = io.StringIO(), io.StringIO()
    # A driver keeps the region that it was given.
    driver = awscli.clidriver.create_clidriver() if "--region" in command else DRIVER
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            status = driver.main(shlex.split(command))
        except SystemExit as exit:
            # A command line that is not understood.
            status = exit.code
    return status, out.getvalue(), errors.getvalue()


def aws(command, **values):
    status, out, errors = attempt(command.format(**values))
    assert status == 0, f"aws {command.format(**values)}: {errors}"
    if "--output text" in command:
        return out.strip()
    return json.loads(out) if out else None


def refused(error, command, **values):
    """The command must fail with this error of the service."""
    status, _, errors = attempt(command.format(**values))
    assert status != 0 and f"({error})" in errors, f"aws {command.format(**values)}: {status} {errors}"


@contextlib.contextmanager
def blob(base64_text):
    """A file of what an answer has in base64: this CLI takes blobs as they are."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(base64.b64decode(base64_text))
        file.flush()
        yield f"fileb://{file.name}"


def new_key(options=""):
    return aws(f"kms create-key {options} --query KeyMetadata.KeyId --output text")


def program():
    """Started as a program, with what it finds by itself."""
    aws = str(pathlib.Path(sys.executable).with_name("aws"))
    told = subprocess.run([aws, "kms", "list-keys"], capture_output=True, text=True)
    assert told.returncode == 0 and "Keys" in json.loads(told.stdout), told.stderr


def keys():
    key = new_key("--description 'a key' --tags TagKey=a,TagValue=b")
    assert aws("kms describe-key --key-id {key}", key=key)["KeyMetadata"]["Description"] == "a key"
    # The CLI follows the pages.
    assert key in [k["KeyId"] for k in aws("kms list-keys --page-size 2")["Keys"]]
    aws("kms update-key-description --key-id {key} --description other", key=key)
    aws("kms disable-key --key-id {key}", key=key)
    refused("DisabledException", "kms encrypt --key-id {key} --plaintext x", key=key)
    aws("kms enable-key --key-id {key}", key=key)
    assert aws("kms get-key-last-usage --key-id {key}", key=key)["KeyCreationDate"]
    aws("kms create-alias --alias-name alias/cli --target-key-id {key}", key=key)
    aws("kms update-alias --alias-name alias/cli --target-key-id {key}", key=new_key())
    refused("AlreadyExistsException", "kms create-alias --alias-name alias/cli --target-key-id {key}", key=key)
    assert any(a["AliasName"] == "alias/cli" for a in aws("kms list-aliases")["Aliases"])
    aws("kms delete-alias --alias-name alias/cli")
    policy = aws("kms get-key-policy --key-id {key} --policy-name default --query Policy --output text", key=key)
    aws("kms put-key-policy --key-id {key} --policy-name default --policy {policy}", key=key, policy=shlex.quote(policy))
    assert aws("kms list-key-policies --key-id {key}", key=key)["PolicyNames"] == ["default"]
    aws("kms tag-resource --key-id {key} --tags TagKey=c,TagValue=d", key=key)
    aws("kms untag-resource --key-id {key} --tag-keys a", key=key)
    assert aws("kms list-resource-tags --key-id {key}", key=key)["Tags"] == [{"TagKey": "c", "TagValue": "d"}]
    aws("kms enable-key-rotation --key-id {key} --rotation-period-in-days 180", key=key)
    assert aws("kms get-key-rotation-status --key-id {key}", key=key)["RotationPeriodInDays"] == 180
    aws("kms disable-key-rotation --key-id {key}", key=key)
    aws("kms rotate-key-on-demand --key-id {key}", key=key)
    assert len(aws("kms list-key-rotations --key-id {key}", key=key)["Rotations"]) == 1
    assert aws("kms schedule-key-deletion --key-id {key} --pending-window-in-days 7", key=key)["KeyState"] == "PendingDeletion"
    refused("KMSInvalidStateException", "kms enable-key --key-id {key}", key=key)
    aws("kms cancel-key-deletion --key-id {key}", key=key)
    refused("NotFoundException", "kms describe-key --key-id alias/cli")


def crypto():
    # The recipe of AWS's documentation: files in, base64 out.
    key, second = new_key(), new_key()
    with tempfile.TemporaryDirectory() as scratch:
        plain, sealed = pathlib.Path(scratch) / "plain", pathlib.Path(scratch) / "sealed"
        plain.write_bytes(b"a secret \xff")
        text = aws("kms encrypt --key-id {key} --plaintext fileb://{plain} --encryption-context a=b "
                   "--query CiphertextBlob --output text", key=key, plain=plain)
        sealed.write_bytes(base64.b64decode(text))
        opened = aws("kms decrypt --ciphertext-blob fileb://{sealed} --encryption-context a=b --query Plaintext --output text",
                     sealed=sealed)
        assert base64.b64decode(opened) == b"a secret \xff"
        refused("InvalidCiphertextException", "kms decrypt --ciphertext-blob fileb://{sealed}", sealed=sealed)
        moved = aws("kms re-encrypt --ciphertext-blob fileb://{sealed} --source-encryption-context a=b "
                    "--destination-key-id {second}", sealed=sealed, second=second)
        assert moved["KeyId"].endswith(second), moved
        data = aws("kms generate-data-key --key-id {key} --key-spec AES_256", key=key)
        assert len(base64.b64decode(data["Plaintext"])) == 32
        aws("kms generate-data-key-without-plaintext --key-id {key} --number-of-bytes 16", key=key)
        aws("kms generate-data-key-pair --key-id {key} --key-pair-spec ECC_NIST_P256", key=key)
        aws("kms generate-data-key-pair-without-plaintext --key-id {key} --key-pair-spec ECC_NIST_P256", key=key)
        assert aws("kms generate-random --number-of-bytes 32")["Plaintext"]
        message, signature = plain, pathlib.Path(scratch) / "signature"
        signer = new_key("--key-spec ECC_NIST_P256 --key-usage SIGN_VERIFY")
        common = f"--key-id {signer} --message fileb://{message} --message-type RAW --signing-algorithm ECDSA_SHA_256"
        signature.write_bytes(base64.b64decode(aws(f"kms sign {common} --query Signature --output text")))
        assert aws(f"kms verify {common} --signature fileb://{signature}")["SignatureValid"] is True
        plain.write_bytes(b"another")
        refused("KMSInvalidSignatureException", f"kms verify {common} --signature fileb://{signature}")
        # openssl reads the public key.
        public = pathlib.Path(scratch) / "public"
        public.write_bytes(base64.b64decode(aws(f"kms get-public-key --key-id {signer} --query PublicKey --output text")))
        code = pathlib.Path(scratch) / "code"
        mac = new_key("--key-spec HMAC_256 --key-usage GENERATE_VERIFY_MAC")
        common = f"--key-id {mac} --message fileb://{message} --mac-algorithm HMAC_SHA_256"
        code.write_bytes(base64.b64decode(aws(f"kms generate-mac {common} --query Mac --output text")))
        assert aws(f"kms verify-mac {common} --mac fileb://{code}")["MacValid"] is True
        agreeing = new_key("--key-spec ECC_NIST_P256 --key-usage KEY_AGREEMENT")
        assert aws("kms derive-shared-secret --key-id {key} --key-agreement-algorithm ECDH --public-key fileb://{public}",
                   key=agreeing, public=public)["SharedSecret"]


def grants():
    key = new_key()
    made = aws("kms create-grant --key-id {key} --grantee-principal arn:aws:iam::{other}:root --operations Decrypt Encrypt "
               "--retiring-principal arn:aws:iam::{account}:root --constraints EncryptionContextSubset={{a=b}}",
               key=key, other=OTHER, account=ACCOUNT)
    assert [g["GrantId"] for g in aws("kms list-grants --key-id {key}", key=key)["Grants"]] == [made["GrantId"]]
    assert aws("kms list-retirable-grants --retiring-principal arn:aws:iam::{account}:root", account=ACCOUNT)["Grants"]
    aws("kms retire-grant --grant-token {token}", token=made["GrantToken"])
    second = aws("kms create-grant --key-id {key} --grantee-principal arn:aws:iam::{other}:root --operations Decrypt",
                 key=key, other=OTHER)
    aws("kms revoke-grant --key-id {key} --grant-id {grant}", key=key, grant=second["GrantId"])
    assert aws("kms list-grants --key-id {key}", key=key)["Grants"] == []


def imports():
    key = new_key("--origin EXTERNAL")
    with tempfile.TemporaryDirectory() as scratch:
        place = {name: pathlib.Path(scratch) / name for name in ("token", "public", "material", "wrapped")}
        told = aws("kms get-parameters-for-import --key-id {key} --wrapping-algorithm RSAES_OAEP_SHA_256 "
                   "--wrapping-key-spec RSA_2048", key=key)
        place["token"].write_bytes(base64.b64decode(told["ImportToken"]))
        place["public"].write_bytes(base64.b64decode(told["PublicKey"]))
        place["material"].write_bytes(os.urandom(32))
        # As AWS's documentation wraps it.
        subprocess.run(
            ["openssl", "pkeyutl", "-encrypt", "-in", place["material"], "-out", place["wrapped"], "-inkey", place["public"],
             "-keyform", "DER", "-pubin", "-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256", "-pkeyopt",
             "rsa_mgf1_md:sha256"], check=True)
        aws("kms import-key-material --key-id {key} --encrypted-key-material fileb://{wrapped} --import-token fileb://{token} "
            "--expiration-model KEY_MATERIAL_DOES_NOT_EXPIRE", key=key, **place)
    aws("kms encrypt --key-id {key} --plaintext x", key=key)
    aws("kms delete-imported-key-material --key-id {key}", key=key)
    refused("KMSInvalidStateException", "kms encrypt --key-id {key} --plaintext x", key=key)


def regions():
    key = new_key("--multi-region")
    replica = aws("kms replicate-key --key-id {key} --replica-region eu-west-1", key=key)["ReplicaKeyMetadata"]
    with blob(aws("kms encrypt --key-id {key} --plaintext x --query CiphertextBlob --output text", key=key)) as sealed:
        assert aws("kms decrypt --ciphertext-blob {sealed} --region eu-west-1", sealed=sealed)["KeyId"] == replica["Arn"]
    aws("kms update-primary-region --key-id {key} --primary-region eu-west-1", key=key)
    refused("UnsupportedOperationException", "kms describe-custom-key-stores")


def identity():
    assert aws("sts get-caller-identity")["Arn"] == f"arn:aws:iam::{ACCOUNT}:root"
    made = aws("iam create-user --user-name bob")["User"]
    aws("iam put-user-policy --user-name bob --policy-name all --policy-document {policy}", policy=shlex.quote(json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["kms:*", "sts:*"], "Resource": "*"}]})))
    key = aws("iam create-access-key --user-name bob")["AccessKey"]
    trust = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": made["Arn"]}, "Action": "sts:AssumeRole"}]}
    role = aws("iam create-role --role-name helper --assume-role-policy-document {trust}",
               trust=shlex.quote(json.dumps(trust)))["Role"]["Arn"]
    with tempfile.NamedTemporaryFile("w") as config:
        # Profiles as people have them: a user, and a role that the CLI takes on by itself.
        config.write(f"[profile bob]\naws_access_key_id = {key['AccessKeyId']}\n"
                     f"aws_secret_access_key = {key['SecretAccessKey']}\n"
                     f"[profile helper]\nrole_arn = {role}\nsource_profile = bob\n")
        config.flush()
        environment = {n: v for n, v in os.environ.items() if not n.startswith(("AWS_ACCESS", "AWS_SECRET"))}
        environment["AWS_CONFIG_FILE"] = config.name
        aws_program = str(pathlib.Path(sys.executable).with_name("aws"))

        def profile(name, command):
            return subprocess.run([aws_program, "--profile", name, *shlex.split(command)], capture_output=True, text=True,
                                  env=environment)

        told = profile("helper", "sts get-caller-identity --query Arn --output text")
        assert told.stdout.startswith(f"arn:aws:sts::{ACCOUNT}:assumed-role/helper/"), told
        told = profile("helper", "kms list-keys")
        assert told.returncode != 0 and "AccessDeniedException" in told.stderr, told
        told = profile("bob", "kms list-keys")
        assert told.returncode == 0, told
        told = profile("bob", "sts get-session-token")
        assert json.loads(told.stdout)["Credentials"]["SessionToken"], told
    assert aws("iam list-users")["Users"] and aws("iam get-user --user-name bob")["User"] and aws("iam list-roles")["Roles"]
    refused("DeleteConflict", "iam delete-user --user-name bob")
    aws("iam delete-access-key --user-name bob --access-key-id {key}", key=key["AccessKeyId"])
    aws("iam delete-user-policy --user-name bob --policy-name all")
    aws("iam delete-user --user-name bob")
    aws("iam delete-role --role-name helper")
    refused("NoSuchEntity", "iam get-user --user-name bob")


def trail():
    aws("kms list-aliases")
    events = aws("cloudtrail lookup-events --lookup-attributes AttributeKey=EventName,AttributeValue=ListAliases "
                 "--max-items 1")["Events"]
    assert json.loads(events[0]["CloudTrailEvent"])["userAgent"].startswith("aws-cli/"), events
    assert aws("cloudtrail describe-trails")["trailList"][0]["Name"] == "kmsfs"
    assert aws("cloudtrail get-trail-status --name kmsfs")["IsLogging"] is True
    assert "PublicKeyList" in aws("cloudtrail list-public-keys")


SECTIONS = {
    "program": program, "keys": keys, "crypto": crypto, "grants": grants, "imports": imports, "regions": regions,
    "identity": identity, "trail": trail,
}

for name in sys.argv[1:]:
    SECTIONS[name]()
    print(f"{name}: ok")
