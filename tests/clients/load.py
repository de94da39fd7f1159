"""Loads a server that speaks AWS KMS with wrk and pre-signed requests, for scripts/bench-server.

    load.py PREFIX URL PID SECONDS OPERATION,... CONNECTIONS,...

Credentials, if the server wants particular ones, are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; the requests are signed by
botocore. A signature holds for 15 minutes, so each row signs its own. The operation HTTP is a GET of /healthz: what the way
there and back costs on the machine. SECONDS may be a part of one: then each row has a second's rest before it
(scripts/bench-server --alone). Prints a tab-separated line for each row: prefix, operation, connections, requests per second,
the same per second of the server's processor time, p50 and p99 in milliseconds, answers that were no success, the server's
resident memory in KiB.
"""

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

prefix, url, pid, seconds, operations, connections = sys.argv[1:]
credentials = Credentials(
    os.environ.get("AWS_ACCESS_KEY_ID", "test"), os.environ.get("AWS_SECRET_ACCESS_KEY", "test")
)
TICKS = os.sysconf("SC_CLK_TCK")
CONTEXT = {"app": "mail", "tenant": "0123456789"}


def signed(operation, body):
    headers = {
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": "TrentService." + operation,
        "Host": url.split("//")[1],
    }
    request = AWSRequest("POST", url + "/", data=json.dumps(body).encode(), headers=headers)
    SigV4Auth(credentials, "kms", "us-east-1").add_auth(request)
    return request


def call(operation, body):
    request = signed(operation, body)
    asked = urllib.request.Request(url + "/", data=request.data, headers=dict(request.headers.items()))
    try:
        with urllib.request.urlopen(asked) as answer:
            return json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        sys.exit(f"load.py: {operation}: {error.code} {error.read().decode(errors='replace')}")


def processor():
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident():
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"^VmRSS:\s+(\d+)", status.read(), re.M)[1])


def milliseconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60000}[unit]


def measure(operation, body, count, script):
    path, lines = "/healthz", []
    if body is not None:
        request = signed(operation, body)
        path, lines = "/", ['wrk.method = "POST"', f"wrk.body = {json.dumps(request.data.decode())}"]
        lines += [f'wrk.headers["{name}"] = {json.dumps(value)}' for name, value in request.headers.items()]
    # Some servers answer without Content-Length and close; wrk connects again.
    with open(script, "w") as file:
        file.write("\n".join(lines) + "\n")
    wrk = ["wrk", "-t1", f"-c{count}", f"-d{seconds}s", "--timeout", "10s", "--latency", "-s", script, url + path]
    whole = float(seconds) >= 1
    if not whole:
        # wrk counts whole seconds; interrupted, it tells what it has.
        wrk = ["timeout", "--signal=INT", seconds, *wrk[:3], "-d10s", *wrk[4:]]
        time.sleep(1)
    used = processor()
    out = subprocess.run(wrk, check=whole, capture_output=True, text=True).stdout
    used = processor() - used
    requests = int(re.search(r"(\d+) requests in", out)[1])
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])
    median, tail = (milliseconds(re.search(rf"^\s+{part}%\s+(\S+)", out, re.M)[1]) for part in (50, 99))
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    each = requests / used if used else 0
    row = [prefix, operation, count, f"{rate:.0f}", f"{each:.0f}", f"{median:.2f}", f"{tail:.2f}"]
    print(*row, failed[1] if failed else 0, resident(), sep="\t", flush=True)


key = call("CreateKey", {})["KeyMetadata"]["KeyId"]
text = base64.b64encode(b"x" * 64).decode()
ciphertext = call("Encrypt", {"KeyId": key, "Plaintext": text, "EncryptionContext": CONTEXT})["CiphertextBlob"]
bodies = {
    "HTTP": None,
    "Encrypt": {"KeyId": key, "Plaintext": text, "EncryptionContext": CONTEXT},
    "Decrypt": {"CiphertextBlob": ciphertext, "EncryptionContext": CONTEXT},
    "GenerateDataKey": {"KeyId": key, "KeySpec": "AES_256", "EncryptionContext": CONTEXT},
}
with tempfile.TemporaryDirectory() as directory:
    for operation in operations.split(","):
        for count in connections.split(","):
            measure(operation, bodies[operation], int(count), os.path.join(directory, "wrk.lua"))
