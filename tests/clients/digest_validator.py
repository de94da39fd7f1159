"""Has awscli's own validator (`aws cloudtrail validate-logs`) check an exported log, and refuse what was done to it.

digest_validator.py DIR KEYS START END [TRAIL]

DIR is what `kmsfs audit export` wrote, KEYS a file with what ListPublicKeys answers, START and END what the digests
cover. With TRAIL, that one is only checked. S3 and CloudTrail are served from these; everything else is awscli's.
"""

import base64
import contextlib
import gzip
import hashlib
import io
import json
import pathlib
import shutil
import sys
import tempfile

from awscli.customizations.cloudtrail import validation
from botocore.exceptions import ClientError

ACCOUNT, REGION, BUCKET = "000000000000", "us-east-1", "kmsfs"
TRAIL = (sys.argv[5:] or ["kmsfs"])[0]
TRAIL_ARN = f"arn:aws:cloudtrail:{REGION}:{ACCOUNT}:trail/{TRAIL}"


class Pages:
    """list_objects: keys behind the marker that begin with the prefix, in their order."""

    def __init__(self, bucket):
        self.bucket = bucket

    def paginate(self, Bucket, Marker, Prefix):
        assert Bucket == BUCKET
        self.keys = [k for k in self.bucket.keys() if k > Marker and k.startswith(Prefix)]
        return self

    def search(self, expression):
        assert expression == "Contents[*].Key"
        return iter(self.keys)


class DirectoryAsS3:
    """An exported directory as a bucket: a digest's .meta file is its metadata."""

    def __init__(self, root):
        self.root = root

    def get_client(self, bucket):
        assert bucket == BUCKET, bucket
        return self

    def keys(self):
        files = (p for p in self.root.rglob("*") if p.is_file() and p.suffix != ".meta")
        return sorted(str(p.relative_to(self.root)) for p in files)

    def get_paginator(self, operation):
        assert operation == "list_objects"
        return Pages(self)

    def get_object(self, Bucket, Key):
        assert Bucket == BUCKET
        path = self.root / Key
        if not path.exists():
            raise ClientError({"Error": {"Code": "NoSuchKey", "Message": "no such key"}}, "GetObject")
        meta = pathlib.Path(f"{path}.meta")
        metadata = json.loads(meta.read_text()) if meta.exists() else {}
        return {"Body": io.BytesIO(path.read_bytes()), "Metadata": metadata}


class Keys:
    """CloudTrail's ListPublicKeys: the keys that are valid at some time of the range."""

    def __init__(self, keys):
        self.keys = keys

    def list_public_keys(self, StartTime, EndTime):
        start, end = StartTime.timestamp(), EndTime.timestamp()
        valid = [k for k in self.keys if k["ValidityStartTime"] <= end and k["ValidityEndTime"] >= start]
        return {"PublicKeyList": valid}


class Checked:
    """What awscli's command says of a directory."""

    def __init__(self, root, keys, start, end):
        command = validation.CloudTrailValidateLogs(None)
        command.trail_arn, command.is_verbose = TRAIL_ARN, True
        command.s3_bucket, command.s3_prefix = BUCKET, None
        command.start_time = validation.normalize_date(validation.parse_date(start))
        command.end_time = validation.normalize_date(validation.parse_date(end))
        command.s3_client_provider = DirectoryAsS3(root)
        command.cloudtrail_client, command.organization_client = Keys(keys), None
        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            command._call()
        self.told = told.getvalue()
        self.digests = (command._valid_digests, command._invalid_digests)
        self.logs = (command._valid_logs, command._invalid_logs)
        # The validator tells from when to when it found valid digests; what was asked for must be it.
        self.whole = (command._found_start_time, command._found_end_time) == (command.start_time, command.end_time)

    def accepted(self):
        return self.digests[1] == 0 and self.logs[1] == 0 and self.whole and self.digests[0] > 0


def read(path):
    return gzip.decompress(path.read_bytes())


def write(path, content):
    path.write_bytes(gzip.compress(content))


def swap(one, other):
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def meta(digest):
    return pathlib.Path(f"{digest}.meta")


def edit_event(logs, digests):
    write(logs[1], read(logs[1]).replace(b"Encrypt", b"Decrypt", 1))


def edit_event_and_digest(logs, digests):
    """Somebody who knows the shape and has no key."""
    before = hashlib.sha256(read(logs[0])).hexdigest()
    write(logs[0], read(logs[0]).replace(b"127.0.0.1", b"127.0.0.2", 1))
    after = hashlib.sha256(read(logs[0])).hexdigest()
    naming = next(d for d in digests if before.encode() in read(d))
    write(naming, read(naming).replace(before.encode(), after.encode()))


def edit_digest(logs, digests):
    write(digests[2], read(digests[2]).replace(b"kmsfsHead", b"kmsfsDead"))


def edit_signature(logs, digests):
    text = json.loads(meta(digests[1]).read_text())
    text["signature"] = ("0" if text["signature"][0] != "0" else "1") + text["signature"][1:]
    meta(digests[1]).write_text(json.dumps(text))


def drop_log(logs, digests):
    logs[1].unlink()


def drop_digest(logs, digests):
    digests[2].unlink()


def drop_empty_hour(logs, digests):
    empty = next(d for d in digests if not json.loads(read(d))["logFiles"])
    empty.unlink()
    meta(empty).unlink()


def drop_event(logs, digests):
    records = json.loads(read(logs[0]))
    del records["Records"][0]
    write(logs[0], json.dumps(records).encode())


def reorder_events(logs, digests):
    records = json.loads(read(logs[0]))
    records["Records"].reverse()
    write(logs[0], json.dumps(records, separators=(",", ":")).encode())


def reorder_logs(logs, digests):
    swap(logs[0], logs[1])


def reorder_digests(logs, digests):
    swap(digests[1], digests[2])
    swap(meta(digests[1]), meta(digests[2]))


def cut_log(logs, digests):
    logs[0].write_bytes(logs[0].read_bytes()[:-20])


def cut_digest(logs, digests):
    digests[1].write_bytes(digests[1].read_bytes()[:-20])


def cut_first_digests(logs, digests):
    for digest in digests[:2]:
        digest.unlink()


def cut_last_digests(logs, digests):
    """Leaves a good chain: it shows by what was found."""
    for digest in digests[-2:]:
        digest.unlink()


DONE_TO_IT = [
    edit_event,
    edit_event_and_digest,
    edit_digest,
    edit_signature,
    drop_log,
    drop_digest,
    drop_empty_hour,
    drop_event,
    reorder_events,
    reorder_logs,
    reorder_digests,
    cut_log,
    cut_digest,
    cut_first_digests,
    cut_last_digests,
]


def parts(root):
    below = root / "AWSLogs" / ACCOUNT
    return [sorted((below / kind).rglob("*.json.gz")) for kind in ("CloudTrail", "CloudTrail-Digest")]


def main():
    root, keys, start, end = pathlib.Path(sys.argv[1]), json.loads(pathlib.Path(sys.argv[2]).read_text()), *sys.argv[3:5]
    if sys.argv[5:]:
        checked = Checked(root, keys, start, end)
        assert checked.accepted() and checked.logs[0] > 0, checked.told
        print(f"{checked.digests[0]} digests, {checked.logs[0]} log files of {TRAIL}")
        return
    logs, digests = parts(root)
    assert len(logs) >= 3 and len(digests) >= 5, (logs, digests)
    whole = Checked(root, keys, start, end)
    assert whole.accepted(), whole.told
    assert whole.digests == (len(digests), 0) and whole.logs == (len(logs), 0), whole.told
    failed = []
    for change in DONE_TO_IT:
        with tempfile.TemporaryDirectory() as scratch:
            copy = pathlib.Path(scratch) / "out"
            shutil.copytree(root, copy)
            change(*parts(copy))
            checked = Checked(copy, keys, start, end)
            print(f"{change.__name__:22} digests {checked.digests} logs {checked.logs} whole {checked.whole}")
            if checked.accepted():
                failed.append(change.__name__)
    # Another modulus under the same name.
    other = bytearray(base64.b64decode(keys[0]["Value"]))
    other[100] ^= 1
    stranger = [dict(keys[0], Value=base64.b64encode(other).decode())]
    if Checked(root, stranger, start, end).digests[0]:
        failed.append("another key")
    assert not failed, f"accepted in spite of {failed}"
    print(f"{len(digests)} digests, {len(logs)} log files, {len(DONE_TO_IT)} changes refused")


main()
