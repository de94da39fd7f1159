"""botocore's model of a service as a judge: every raw answer must be one that the model describes.

Made clients have `judge`, which keeps what was called, with which results.
"""

import base64
import datetime
import json
import re
from xml.etree import ElementTree

import boto3
import botocore.config
import botocore.exceptions

# Errors of every AWS service; no model lists them.
COMMON = {
    "AccessDeniedException",
    "AccessDenied",
    "ExpiredTokenException",
    "ExpiredToken",
    "IncompleteSignature",
    "IncompleteSignatureException",
    "InternalFailure",
    "InvalidAction",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationTokenException",
    "SerializationException",
    "SignatureDoesNotMatch",
    "ThrottlingException",
    "UnknownOperationException",
    "UnrecognizedClientException",
    "ValidationError",
    "ValidationException",
}
# Of them, those that have another status than 400.
STATUS = {
    "AccessDenied": 403,
    "ExpiredToken": 403,
    "InternalFailure": 500,
    "InvalidClientTokenId": 403,
    "SignatureDoesNotMatch": 403,
}
# Members of answers that AWS always gives, though the model does not call them required.
ALWAYS = {
    ("kms", "KeyMetadata"): {
        "AWSAccountId", "Arn", "CreationDate", "CustomerMasterKeySpec", "Description", "Enabled", "KeyManager",
        "KeySpec", "KeyState", "KeyUsage", "MultiRegion", "Origin",
    },
    ("kms", "KeyListEntry"): {"KeyId", "KeyArn"},
    ("kms", "AliasListEntry"): {"AliasArn", "AliasName"},
    ("kms", "GrantListEntry"): {"CreationDate", "GrantId", "GranteePrincipal", "IssuingAccount", "KeyId", "Operations"},
    ("kms", "RotationsListEntry"): {"KeyId", "KeyMaterialId"},
}
# Answers whose members are all there.
WHOLE = {
    "CancelKeyDeletion", "CreateGrant", "Decapsulate", "Encapsulate", "Encrypt", "GenerateDataKeyPairWithoutPlaintext",
    "GenerateDataKeyWithoutPlaintext", "GenerateMac", "GetParametersForImport", "ReEncrypt", "ReplicateKey",
    "RotateKeyOnDemand", "ScheduleKeyDeletion", "Sign", "Verify", "VerifyMac",
}
# Members that only enclaves or other key stores see.
NOT_HERE = {"CiphertextForRecipient"}


class Judge:
    """Hooked into a client's parser."""

    def __init__(self, client):
        self.client = client
        self.model = client.meta.service_model
        self.service = self.model.service_name
        self.protocol = self.model.metadata["protocol"]
        self.done, self.refused = set(), set()
        client.meta.events.register(f"response-received.{self.service}", self.see)

    def see(self, response_dict, parsed_response, context, **_):
        operation = context["operation"] if isinstance(context, dict) and "operation" in context else None
        self.last = (response_dict, parsed_response, operation)

    def judge(self, name):
        """The last answer, which was that of the operation `name`."""
        raw, parsed, _ = self.last
        status, headers, body = raw["status_code"], raw["headers"], raw["body"]
        operation = self.model.operation_model(name)
        where = f"{self.service} {name}"
        request_id = headers.get("x-amzn-RequestId")
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", request_id or ""), (where, headers)
        if self.protocol == "json":
            assert headers["content-type"] == f"application/x-amz-json-{self.model.metadata['jsonVersion']}", headers
        else:
            assert headers["content-type"].startswith("text/xml"), headers
            assert parsed["ResponseMetadata"]["RequestId"] == request_id, where
        if status == 200:
            self.done.add(name)
            if self.protocol == "json":
                self.answer(where, operation, body)
            else:
                self.xml(where, operation, body)
            return
        self.refused.add(name)
        code = parsed["Error"]["Code"]
        shapes = {shape.error_code: shape for shape in operation.error_shapes}
        assert code in shapes or code in COMMON, f"{where}: the model has no error {code} there"
        due = STATUS.get(code, 400)
        if code in shapes:
            metadata = shapes[code].metadata
            due = metadata.get("error", {}).get("httpStatusCode", 500 if metadata.get("fault") else 400)
        assert status == due, f"{where}: {code} came with status {status}, not {due}"
        if self.protocol == "json":
            told = json.loads(body)
            assert set(told) <= {"__type", "message", "Message"} and told["__type"] == code, f"{where}: {told}"

    def xml(self, where, operation, body):
        """The query protocol: <NameResponse><NameResult>members</NameResult><ResponseMetadata/>."""
        namespace = f"{{{self.model.metadata['xmlNamespace']}}}"
        root = ElementTree.fromstring(body)
        assert root.tag == f"{namespace}{operation.name}Response", f"{where}: {root.tag}"
        due = {f"{namespace}ResponseMetadata"}
        if operation.output_shape is not None:
            result = f"{namespace}{operation.output_shape.serialization['resultWrapper']}"
            due.add(result)
            found = root.find(result)
            if found is not None:
                self.fits(where, operation.output_shape, self.plain(where, operation.output_shape, found, namespace))
        assert {part.tag for part in root} == due, f"{where}: {[part.tag for part in root]}"

    def plain(self, where, shape, element, namespace):
        """An element as JSON would have it; every element must be a member."""
        kind = shape.type_name
        if kind == "structure":
            names = {member.serialization.get("name", name): name for name, member in shape.members.items()}
            unknown = {part.tag.removeprefix(namespace) for part in element} - set(names)
            assert not unknown, f"{where}: the model has no {unknown}"
            parts = {names[part.tag.removeprefix(namespace)]: part for part in element}
            return {n: self.plain(f"{where}.{n}", shape.members[n], p, namespace) for n, p in parts.items()}
        if kind == "list":
            assert all(part.tag == f"{namespace}member" for part in element), where
            return [self.plain(f"{where}[]", shape.member, part, namespace) for part in element]
        if kind == "map":
            return {e.findtext(f"{namespace}key"): e.findtext(f"{namespace}value") for e in element}
        text = element.text or ""
        if kind in ("integer", "long"):
            return int(text)
        if kind == "boolean":
            return {"true": True, "false": False}[text]
        if kind == "timestamp":
            return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
        return text

    def answer(self, where, operation, body):
        shape = operation.output_shape
        if shape is None or not shape.members:
            # AWS answers nothing, or an empty object.
            assert body in (b"", b"{}"), f"{where}: {body}"
            return
        told = json.loads(body)
        self.fits(where, shape, told)
        if operation.name in WHOLE:
            missing = set(shape.members) - set(told) - NOT_HERE
            assert not missing, f"{where}: without {missing}"

    def fits(self, where, shape, value):
        kind = shape.type_name
        if kind == "structure":
            assert isinstance(value, dict), f"{where}: {value}"
            unknown = set(value) - set(shape.members)
            assert not unknown, f"{where}: the model has no {unknown}"
            due = set(shape.required_members) | ALWAYS.get((self.service, shape.name), set())
            assert due <= set(value), f"{where}: without {due - set(value)}"
            for name, part in value.items():
                assert part is not None, f"{where}.{name} is null"
                if name == "CustomerMasterKeySpec":
                    # Deprecated: its list ends before the newer specs, and its text says that it is KeySpec's value.
                    assert part == value["KeySpec"], f"{where}: {value}"
                    continue
                self.fits(f"{where}.{name}", shape.members[name], part)
        elif kind == "list":
            assert isinstance(value, list), f"{where}: {value}"
            for part in value:
                self.fits(f"{where}[]", shape.member, part)
        elif kind == "map":
            assert isinstance(value, dict), f"{where}: {value}"
            for name, part in value.items():
                self.fits(f"{where} key", shape.key, name)
                self.fits(f"{where}.{name}", shape.value, part)
        elif kind == "string":
            assert isinstance(value, str), f"{where}: {value}"
            if shape.enum:
                assert value in shape.enum, f"{where}: {value} is none of {shape.enum}"
            self.bounds(where, shape, len(value))
            # Classes of Unicode (\p) are Java's; Python has none.
            if "\\p" not in shape.metadata.get("pattern", "\\p"):
                assert re.search(shape.metadata["pattern"], value), f"{where}: {value}"
        elif kind == "blob":
            assert isinstance(value, str), f"{where}: {value}"
            self.bounds(where, shape, len(base64.b64decode(value, validate=True)))
        elif kind == "timestamp":
            assert isinstance(value, (int, float)) and not isinstance(value, bool), f"{where}: {value}"
        elif kind == "boolean":
            assert isinstance(value, bool), f"{where}: {value}"
        elif kind in ("integer", "long"):
            assert isinstance(value, int) and not isinstance(value, bool), f"{where}: {value}"
            self.bounds(where, shape, value)
        else:
            raise AssertionError(f"{where}: the judge does not know {kind}")

    def bounds(self, where, shape, size):
        assert shape.metadata.get("min", size) <= size <= shape.metadata.get("max", size), f"{where}: {size}"


class Service:
    """A client whose every answer is judged: service.CreateKey(Description="x")."""

    def __init__(self, name, region="us-east-1", credentials=None, check=True):
        config = botocore.config.Config(retries={"total_max_attempts": 1}, parameter_validation=check)
        keys = {}
        if credentials:
            keys = dict(zip(("aws_access_key_id", "aws_secret_access_key", "aws_session_token"), credentials))
        # A client of its own, and no session that others share.
        self.client = boto3.session.Session().client(name, region_name=region, config=config, **keys)
        self.judge = Judge(self.client)
        self.methods = {op: method for method, op in self.client.meta.method_to_api_mapping.items()}

    def __getattr__(self, operation):
        method = getattr(self.client, self.methods[operation])

        def call(**parameters):
            try:
                answer = method(**parameters)
            except botocore.exceptions.ClientError:
                self.judge.judge(operation)
                raise
            self.judge.judge(operation)
            return answer

        return call

    def refuses(self, operation, code, text=None, **parameters):
        """The operation must fail so; `text` must be in the message."""
        try:
            getattr(self, operation)(**parameters)
        except botocore.exceptions.ClientError as error:
            told = error.response["Error"]
            assert told["Code"] == code, f"{operation} answered {told}, not {code}"
            assert text is None or text in told["Message"], f"{operation}: {told['Message']!r} has no {text!r}"
            return told["Message"]
        raise AssertionError(f"{operation} was to fail with {code}")


def soon():
    return datetime.datetime.now(datetime.timezone.utc)
