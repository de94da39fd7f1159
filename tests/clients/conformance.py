"""Drives every operation through botocore, and has botocore's model judge each raw answer.

conformance.py SECTION...

The server is that of AWS_ENDPOINT_URL. AWS_ACCESS_KEY_ID is root of account 000000000000, OTHER_ACCESS_KEY_ID and
OTHER_SECRET_ACCESS_KEY of account 111122223333. The regions us-east-1 and eu-west-1 are there.
"""

import datetime
import hashlib
import json
import os
import sys
import uuid

from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from model import Service, soon

ACCOUNT, OTHER = "000000000000", "111122223333"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
NO_KEY = "00000000-0000-4000-8000-000000000000"
LONG = "x" * 9000

kms = Service("kms")
# Sends what botocore would refuse by itself.
raw = Service("kms", check=False)
eu = Service("kms", region="eu-west-1")
other = Service("kms", credentials=(os.environ["OTHER_ACCESS_KEY_ID"], os.environ["OTHER_SECRET_ACCESS_KEY"]))
ALL = [kms, raw, eu, other]


def make(service=kms, **parameters):
    return service.CreateKey(**parameters)["KeyMetadata"]


def arn(key):
    return f"arn:aws:kms:us-east-1:{ACCOUNT}:key/{key}"


def disabled(**parameters):
    key = make(**parameters)["KeyId"]
    kms.DisableKey(KeyId=key)
    return key


def dying(**parameters):
    key = make(**parameters)["KeyId"]
    kms.ScheduleKeyDeletion(KeyId=key, PendingWindowInDays=7)
    return key


def keys():
    made = make(Description="of the test", Tags=[{"TagKey": "a", "TagValue": "b"}])
    key = made["KeyId"]
    uuid.UUID(key)
    assert made["Arn"] == arn(key) and made["AWSAccountId"] == ACCOUNT and made["KeyState"] == "Enabled", made
    assert made["EncryptionAlgorithms"] == ["SYMMETRIC_DEFAULT"] and made["KeyManager"] == "CUSTOMER", made
    assert "DeletionDate" not in made and "SigningAlgorithms" not in made, made
    assert kms.DescribeKey(KeyId=made["Arn"])["KeyMetadata"] == made
    # Every spec that the model has, with each usage; SM2 is for China.
    usages = {
        "SYMMETRIC": ["ENCRYPT_DECRYPT"],
        "RSA": ["ENCRYPT_DECRYPT", "SIGN_VERIFY"],
        "ECC_NIST_P": ["SIGN_VERIFY", "KEY_AGREEMENT"],
        "ECC_SECG": ["SIGN_VERIFY"],
        "ECC_NIST_EDWARDS": ["SIGN_VERIFY"],
        "HMAC": ["GENERATE_VERIFY_MAC"],
        "ML_DSA": ["SIGN_VERIFY"],
    }
    for spec in kms.judge.model.shape_for("KeySpec").enum:
        for usage in next((u for s, u in usages.items() if spec.startswith(s)), []):
            made = make(KeySpec=spec, KeyUsage=usage)
            assert (made["KeySpec"], made["KeyUsage"]) == (spec, usage), made
    kms.refuses("CreateKey", "UnsupportedOperationException", KeySpec="SM2", KeyUsage="SIGN_VERIFY")
    kms.refuses("CreateKey", "ValidationException", KeySpec="RSA_2048", KeyUsage="GENERATE_VERIFY_MAC")
    kms.refuses("CreateKey", "ValidationException", KeySpec="RSA_2048")
    kms.refuses("CreateKey", "MalformedPolicyDocumentException", Policy="{}")
    kms.refuses("CreateKey", "TagException", Tags=[{"TagKey": "aws:a", "TagValue": ""}])
    raw.refuses("CreateKey", "ValidationException", "1 validation error detected", Description=LONG)
    raw.refuses("CreateKey", "ValidationException", "Member must satisfy enum value set", KeySpec="DES")
    raw.refuses("CreateKey", "SerializationException", Description=5)

    kms.refuses("DescribeKey", "NotFoundException", f"Key '{arn(NO_KEY)}' does not exist", KeyId=NO_KEY)
    kms.refuses("DescribeKey", "NotFoundException", "Invalid keyId 'nokey'", KeyId="nokey")
    kms.refuses("DescribeKey", "NotFoundException", "Invalid arn eu-west-1", KeyId=arn(key).replace("us-east-1", "eu-west-1"))
    kms.refuses("DescribeKey", "NotFoundException", f"arn:aws:kms:us-east-1:{ACCOUNT}:alias/none", KeyId="alias/none")
    eu.refuses("DescribeKey", "NotFoundException", KeyId=key)
    raw.refuses("DescribeKey", "ValidationException", "Member must not be null")
    other.refuses("DescribeKey", "AccessDeniedException", "is not authorized to perform: kms:DescribeKey", KeyId=arn(key))

    page = kms.ListKeys(Limit=3)
    assert page["Truncated"] and len(page["Keys"]) == 3, page
    seen = [k["KeyId"] for k in page["Keys"]]
    while page["Truncated"]:
        page = kms.ListKeys(Limit=1000, Marker=page["NextMarker"])
        seen += [k["KeyId"] for k in page["Keys"]]
    assert key in seen and len(seen) == len(set(seen)), seen
    kms.refuses("ListKeys", "InvalidMarkerException", Marker="none")
    raw.refuses("ListKeys", "ValidationException", "value less than or equal to 1000", Limit=1001)

    kms.UpdateKeyDescription(KeyId=key, Description="another")
    assert kms.DescribeKey(KeyId=key)["KeyMetadata"]["Description"] == "another"
    raw.refuses("UpdateKeyDescription", "ValidationException", KeyId=key, Description=LONG)
    kms.refuses("UpdateKeyDescription", "NotFoundException", KeyId=NO_KEY, Description="")

    kms.DisableKey(KeyId=key)
    assert kms.DescribeKey(KeyId=key)["KeyMetadata"]["KeyState"] == "Disabled"
    kms.refuses("Encrypt", "DisabledException", f"{arn(key)} is disabled.", KeyId=key, Plaintext=b"x")
    kms.EnableKey(KeyId=key)
    for operation in ("EnableKey", "DisableKey"):
        kms.refuses(operation, "NotFoundException", KeyId=NO_KEY)
        kms.refuses(operation, "KMSInvalidStateException", KeyId=dying())

    usage = kms.GetKeyLastUsage(KeyId=key)
    assert usage["KeyId"] in (key, arn(key)) and not usage.get("KeyLastUsage"), usage
    kms.Encrypt(KeyId=key, Plaintext=b"x")
    assert kms.GetKeyLastUsage(KeyId=key)["KeyLastUsage"]["Operation"] == "Encrypt"
    kms.refuses("GetKeyLastUsage", "NotFoundException", KeyId=NO_KEY)

    asked = kms.ScheduleKeyDeletion(KeyId=key, PendingWindowInDays=7)
    assert asked["KeyId"] == arn(key) and asked["KeyState"] == "PendingDeletion", asked
    days = (asked["DeletionDate"] - soon()).total_seconds() / 86400
    assert 6.9 < days < 7.1, asked
    kms.refuses("Encrypt", "KMSInvalidStateException", f"{arn(key)} is pending deletion.", KeyId=key, Plaintext=b"x")
    kms.refuses("ScheduleKeyDeletion", "KMSInvalidStateException", KeyId=key)
    raw.refuses("ScheduleKeyDeletion", "ValidationException", KeyId=key, PendingWindowInDays=6)
    assert kms.CancelKeyDeletion(KeyId=key)["KeyId"] == arn(key)
    assert kms.DescribeKey(KeyId=key)["KeyMetadata"]["KeyState"] == "Disabled"
    kms.refuses("CancelKeyDeletion", "KMSInvalidStateException", f"{arn(key)} is not pending deletion", KeyId=key)
    kms.refuses("CancelKeyDeletion", "NotFoundException", KeyId=NO_KEY)


def aliases():
    key, second = make()["KeyId"], make()["KeyId"]
    kms.CreateAlias(AliasName="alias/conformance", TargetKeyId=key)
    kms.refuses("CreateAlias", "AlreadyExistsException", "alias/conformance already exists",
                AliasName="alias/conformance", TargetKeyId=key)
    kms.refuses("CreateAlias", "NotFoundException", AliasName="alias/other", TargetKeyId=NO_KEY)
    raw.refuses("CreateAlias", "ValidationException", AliasName="", TargetKeyId=key)
    raw.refuses("CreateAlias", "InvalidAliasNameException", AliasName="name", TargetKeyId=key)
    kms.refuses("CreateAlias", "KMSInvalidStateException", AliasName="alias/dying", TargetKeyId=dying())
    found = kms.ListAliases(KeyId=key)["Aliases"]
    assert [a["AliasName"] for a in found] == ["alias/conformance"] and found[0]["TargetKeyId"] == key, found
    kms.UpdateAlias(AliasName="alias/conformance", TargetKeyId=second)
    assert kms.DescribeKey(KeyId="alias/conformance")["KeyMetadata"]["KeyId"] == second
    kms.refuses("UpdateAlias", "NotFoundException", AliasName="alias/none", TargetKeyId=key)
    kms.refuses("UpdateAlias", "KMSInvalidStateException", AliasName="alias/conformance", TargetKeyId=dying())
    kms.DeleteAlias(AliasName="alias/conformance")
    kms.refuses("DeleteAlias", "NotFoundException", f"Alias arn:aws:kms:us-east-1:{ACCOUNT}:alias/conformance is not found.",
                AliasName="alias/conformance")
    kms.refuses("ListAliases", "NotFoundException", KeyId=NO_KEY)
    kms.refuses("ListAliases", "InvalidMarkerException", Marker="none")


def policies():
    key = make()["KeyId"]
    assert kms.ListKeyPolicies(KeyId=key)["PolicyNames"] == ["default"]
    told = kms.GetKeyPolicy(KeyId=key)
    policy = json.loads(told["Policy"])
    assert told["PolicyName"] == "default" and policy["Id"] == "key-default-1", told
    assert policy["Statement"] == [{
        "Sid": "Enable IAM User Permissions", "Effect": "Allow", "Principal": {"AWS": ROOT}, "Action": "kms:*",
        "Resource": "*",
    }], policy
    policy["Statement"].append({
        "Sid": "other", "Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{OTHER}:root"},
        "Action": ["kms:Encrypt", "kms:DescribeKey"], "Resource": "*",
    })
    kms.PutKeyPolicy(KeyId=key, PolicyName="default", Policy=json.dumps(policy))
    blob = other.Encrypt(KeyId=arn(key), Plaintext=b"x")["CiphertextBlob"]
    other.refuses(
        "Decrypt", "AccessDeniedException",
        f"User: arn:aws:iam::{OTHER}:root is not authorized to perform: kms:Decrypt on the resource associated with this "
        "ciphertext because the resource does not exist in this Region, no resource-based policies allow access, or a "
        "resource-based policy explicitly denies access", CiphertextBlob=blob)
    other.refuses("DisableKey", "AccessDeniedException", "no resource-based policy allows the kms:DisableKey action",
                  KeyId=arn(key))
    locked = {"Version": "2012-10-17", "Statement": [dict(policy["Statement"][0], Action="kms:Encrypt")]}
    kms.refuses("PutKeyPolicy", "MalformedPolicyDocumentException", KeyId=key, PolicyName="default", Policy=json.dumps(locked))
    kms.PutKeyPolicy(KeyId=key, Policy=json.dumps(policy), BypassPolicyLockoutSafetyCheck=True)
    kms.refuses("PutKeyPolicy", "NotFoundException", KeyId=NO_KEY, Policy=json.dumps(policy))
    kms.refuses("GetKeyPolicy", "NotFoundException", KeyId=key, PolicyName="other")
    kms.refuses("ListKeyPolicies", "NotFoundException", KeyId=NO_KEY)


def tags():
    key = make()["KeyId"]
    kms.TagResource(KeyId=key, Tags=[{"TagKey": "a", "TagValue": "1"}, {"TagKey": "b", "TagValue": ""}])
    assert kms.ListResourceTags(KeyId=key)["Tags"] == [{"TagKey": "a", "TagValue": "1"}, {"TagKey": "b", "TagValue": ""}]
    page = kms.ListResourceTags(KeyId=key, Limit=1)
    assert page["Truncated"] and kms.ListResourceTags(KeyId=key, Marker=page["NextMarker"])["Tags"][0]["TagKey"] == "b"
    kms.UntagResource(KeyId=key, TagKeys=["a"])
    kms.refuses("TagResource", "TagException", KeyId=key, Tags=[{"TagKey": "aws:a", "TagValue": ""}])
    kms.refuses("TagResource", "KMSInvalidStateException", KeyId=dying(), Tags=[{"TagKey": "a", "TagValue": ""}])
    kms.refuses("UntagResource", "NotFoundException", KeyId=NO_KEY, TagKeys=["a"])
    kms.refuses("ListResourceTags", "NotFoundException", KeyId=NO_KEY)
    kms.refuses("ListResourceTags", "InvalidMarkerException", KeyId=key, Marker="none")


def rotation():
    key, pair = make()["KeyId"], make(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")["KeyId"]
    assert kms.GetKeyRotationStatus(KeyId=key)["KeyRotationEnabled"] is False
    kms.EnableKeyRotation(KeyId=key, RotationPeriodInDays=90)
    status = kms.GetKeyRotationStatus(KeyId=key)
    assert status["KeyRotationEnabled"] and status["RotationPeriodInDays"] == 90 and status["NextRotationDate"], status
    kms.DisableKeyRotation(KeyId=key)
    kms.RotateKeyOnDemand(KeyId=key)
    found = kms.ListKeyRotations(KeyId=key)["Rotations"]
    assert len(found) == 1 and found[0]["RotationType"] == "ON_DEMAND", found
    everything = kms.ListKeyRotations(KeyId=key, IncludeKeyMaterial="ALL_KEY_MATERIAL")["Rotations"]
    assert [r["KeyMaterialState"] for r in everything].count("CURRENT") == 1 and len(everything) == 2, everything
    assert kms.GetKeyRotationStatus(KeyId=pair)["KeyRotationEnabled"] is False
    for operation in ("EnableKeyRotation", "DisableKeyRotation", "RotateKeyOnDemand"):
        kms.refuses(operation, "UnsupportedOperationException", KeyId=pair)
        kms.refuses(operation, "DisabledException", KeyId=disabled())
        kms.refuses(operation, "KMSInvalidStateException", KeyId=dying())
        kms.refuses(operation, "NotFoundException", KeyId=NO_KEY)
    raw.refuses("EnableKeyRotation", "ValidationException", KeyId=key, RotationPeriodInDays=89)
    kms.refuses("GetKeyRotationStatus", "NotFoundException", KeyId=NO_KEY)
    kms.refuses("ListKeyRotations", "InvalidMarkerException", KeyId=key, Marker="none")


def symmetric():
    key = make()["KeyId"]
    context = {"Purpose": "test", "Name": "\u00e4"}
    done = kms.Encrypt(KeyId=key, Plaintext=b"secret", EncryptionContext=context)
    assert done["KeyId"] == arn(key) and done["EncryptionAlgorithm"] == "SYMMETRIC_DEFAULT", done
    blob = done["CiphertextBlob"]
    opened = kms.Decrypt(CiphertextBlob=blob, EncryptionContext=context, KeyId=key)
    assert opened["Plaintext"] == b"secret" and len(opened["KeyMaterialId"]) == 64, opened
    kms.refuses("Decrypt", "InvalidCiphertextException", CiphertextBlob=blob, EncryptionContext={"Purpose": "other"})
    kms.refuses("Decrypt", "InvalidCiphertextException", CiphertextBlob=b"x" * 200, KeyId=key)
    kms.refuses("Decrypt", "IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform "
                "this operation.", CiphertextBlob=blob, EncryptionContext=context, KeyId=make()["KeyId"])
    raw.refuses("Encrypt", "ValidationException", "length less than or equal to 4096", KeyId=key, Plaintext=b"x" * 4097)
    kms.refuses("Encrypt", "DryRunOperationException", KeyId=key, Plaintext=b"x", DryRun=True)
    kms.refuses("Encrypt", "InvalidKeyUsageException", KeyId=make(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")["KeyId"],
                Plaintext=b"x")
    kms.refuses("Encrypt", "InvalidGrantTokenException", KeyId=key, Plaintext=b"x", GrantTokens=["none"])
    second = make()["KeyId"]
    moved = kms.ReEncrypt(CiphertextBlob=blob, SourceEncryptionContext=context, DestinationKeyId=second)
    assert moved["SourceKeyId"] == arn(key) and moved["KeyId"] == arn(second), moved
    assert kms.Decrypt(CiphertextBlob=moved["CiphertextBlob"])["Plaintext"] == b"secret"
    kms.refuses("ReEncrypt", "InvalidCiphertextException", CiphertextBlob=blob, DestinationKeyId=second)
    kms.refuses("ReEncrypt", "NotFoundException", CiphertextBlob=blob, SourceEncryptionContext=context, DestinationKeyId=NO_KEY)
    data = kms.GenerateDataKey(KeyId=key, KeySpec="AES_256", EncryptionContext=context)
    assert len(data["Plaintext"]) == 32, data
    assert kms.Decrypt(CiphertextBlob=data["CiphertextBlob"], EncryptionContext=context)["Plaintext"] == data["Plaintext"]
    assert len(kms.GenerateDataKey(KeyId=key, NumberOfBytes=17)["Plaintext"]) == 17
    assert "Plaintext" not in kms.GenerateDataKeyWithoutPlaintext(KeyId=key, KeySpec="AES_128")
    for operation in ("GenerateDataKey", "GenerateDataKeyWithoutPlaintext"):
        kms.refuses(operation, "ValidationException", KeyId=key)
        kms.refuses(operation, "ValidationException", KeyId=key, KeySpec="AES_256", NumberOfBytes=32)
        kms.refuses(operation, "DisabledException", KeyId=disabled(), KeySpec="AES_256")
        kms.refuses(operation, "KMSInvalidStateException", KeyId=dying(), KeySpec="AES_256")
        kms.refuses(operation, "InvalidKeyUsageException", KeySpec="AES_256",
                    KeyId=make(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyId"])
    assert len(kms.GenerateRandom(NumberOfBytes=33)["Plaintext"]) == 33
    kms.refuses("GenerateRandom", "ValidationException")
    raw.refuses("GenerateRandom", "ValidationException", "value less than or equal to 1024", NumberOfBytes=1025)


def public(key):
    told = kms.GetPublicKey(KeyId=key)
    return told, serialization.load_der_public_key(told["PublicKey"])


def pairs():
    signer = make(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")["KeyId"]
    told, theirs = public(signer)
    assert told["KeySpec"] == told["CustomerMasterKeySpec"] == "RSA_2048" and len(told["SigningAlgorithms"]) == 6, told
    assert "EncryptionAlgorithms" not in told, told
    done = kms.Sign(KeyId=signer, Message=b"m", SigningAlgorithm="RSASSA_PSS_SHA_256")
    theirs.verify(done["Signature"], b"m", padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    digest = hashlib.sha384(b"m").digest()
    done = kms.Sign(KeyId=signer, Message=digest, MessageType="DIGEST", SigningAlgorithm="RSASSA_PKCS1_V1_5_SHA_384")
    theirs.verify(done["Signature"], digest, padding.PKCS1v15(), utils.Prehashed(hashes.SHA384()))
    verified = kms.Verify(KeyId=signer, Message=b"m", Signature=done["Signature"], SigningAlgorithm="RSASSA_PKCS1_V1_5_SHA_384")
    assert verified["SignatureValid"] is True, verified
    kms.refuses("Verify", "KMSInvalidSignatureException", KeyId=signer, Message=b"n", Signature=done["Signature"],
                SigningAlgorithm="RSASSA_PKCS1_V1_5_SHA_384")
    kms.refuses("Sign", "InvalidKeyUsageException", KeyId=signer, Message=b"m", SigningAlgorithm="ECDSA_SHA_256")
    kms.refuses("Sign", "ValidationException", KeyId=signer, Message=b"short", MessageType="DIGEST",
                SigningAlgorithm="RSASSA_PSS_SHA_256")
    kms.refuses("Sign", "DisabledException", KeyId=disabled(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY"), Message=b"m",
                SigningAlgorithm="ECDSA_SHA_256")
    for spec, algorithm in [
        ("ECC_NIST_P521", "ECDSA_SHA_512"), ("ECC_SECG_P256K1", "ECDSA_SHA_256"),
        ("ECC_NIST_EDWARDS25519", "ED25519_SHA_512"), ("ML_DSA_65", "ML_DSA_SHAKE_256"),
    ]:
        key = make(KeySpec=spec, KeyUsage="SIGN_VERIFY")["KeyId"]
        signature = kms.Sign(KeyId=key, Message=b"m", SigningAlgorithm=algorithm)["Signature"]
        assert kms.Verify(KeyId=key, Message=b"m", Signature=signature, SigningAlgorithm=algorithm)["SignatureValid"]
        kms.GetPublicKey(KeyId=key)
    opener = make(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")["KeyId"]
    theirs = public(opener)[1]
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    opened = kms.Decrypt(KeyId=opener, CiphertextBlob=theirs.encrypt(b"x", oaep), EncryptionAlgorithm="RSAES_OAEP_SHA_256")
    assert opened["Plaintext"] == b"x", opened
    kms.Encrypt(KeyId=opener, Plaintext=b"x" * 190, EncryptionAlgorithm="RSAES_OAEP_SHA_256")
    kms.refuses("Encrypt", "ValidationException", KeyId=opener, Plaintext=b"x" * 191, EncryptionAlgorithm="RSAES_OAEP_SHA_256")
    kms.refuses("GetPublicKey", "UnsupportedOperationException", KeyId=make()["KeyId"])
    kms.refuses("GetPublicKey", "NotFoundException", KeyId=NO_KEY)

    mac = make(KeySpec="HMAC_384", KeyUsage="GENERATE_VERIFY_MAC")["KeyId"]
    code = kms.GenerateMac(KeyId=mac, Message=b"m", MacAlgorithm="HMAC_SHA_384")["Mac"]
    assert len(code) == 48
    assert kms.VerifyMac(KeyId=mac, Message=b"m", Mac=code, MacAlgorithm="HMAC_SHA_384")["MacValid"] is True
    kms.refuses("VerifyMac", "KMSInvalidMacException", KeyId=mac, Message=b"n", Mac=code, MacAlgorithm="HMAC_SHA_384")
    kms.refuses("GenerateMac", "InvalidKeyUsageException", KeyId=mac, Message=b"m", MacAlgorithm="HMAC_SHA_256")

    agreeing = make(KeySpec="ECC_NIST_P256", KeyUsage="KEY_AGREEMENT")["KeyId"]
    theirs, mine = public(agreeing)[1], ec.generate_private_key(ec.SECP256R1())
    der = mine.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    done = kms.DeriveSharedSecret(KeyId=agreeing, KeyAgreementAlgorithm="ECDH", PublicKey=der)
    assert done["SharedSecret"] == mine.exchange(ec.ECDH(), theirs) and done["KeyOrigin"] == "AWS_KMS"
    kms.refuses("DeriveSharedSecret", "ValidationException", KeyId=agreeing, KeyAgreementAlgorithm="ECDH", PublicKey=b"x" * 91)
    kms.refuses("DeriveSharedSecret", "InvalidKeyUsageException", KeyId=signer, KeyAgreementAlgorithm="ECDH", PublicKey=der)

    key = make()["KeyId"]
    for spec in ("RSA_2048", "ECC_NIST_P256", "ECC_NIST_EDWARDS25519"):
        made = kms.GenerateDataKeyPair(KeyId=key, KeyPairSpec=spec)
        private = serialization.load_der_private_key(made["PrivateKeyPlaintext"], None)
        assert private.public_key() == serialization.load_der_public_key(made["PublicKey"])
        assert kms.Decrypt(CiphertextBlob=made["PrivateKeyCiphertextBlob"])["Plaintext"] == made["PrivateKeyPlaintext"]
        kms.GenerateDataKeyPairWithoutPlaintext(KeyId=key, KeyPairSpec=spec)
    for operation in ("GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext"):
        kms.refuses(operation, "InvalidKeyUsageException", KeyId=signer, KeyPairSpec="RSA_2048")
        kms.refuses(operation, "UnsupportedOperationException", KeyId=key, KeyPairSpec="SM2")


def kem():
    for spec in ("ML_KEM_512", "ML_KEM_768", "ML_KEM_1024"):
        key = make(KeySpec=spec, KeyUsage="ENCAPSULATE_DECAPSULATE")
        assert key["EncapsulationAlgorithms"] == ["ML_KEM"], key
        sent = kms.Encapsulate(KeyId=key["KeyId"], EncapsulationAlgorithm="ML_KEM")
        got = kms.Decapsulate(KeyId=key["KeyId"], EncapsulationAlgorithm="ML_KEM",
                              SharedSecretCiphertextBlob=sent["SharedSecretCiphertextBlob"])
        assert got["SharedSecret"] == sent["SharedSecret"] and len(got["SharedSecret"]) == 32
        kms.GetPublicKey(KeyId=key["KeyId"])
    wrong = make()["KeyId"]
    kms.refuses("Encapsulate", "InvalidKeyUsageException", KeyId=wrong, EncapsulationAlgorithm="ML_KEM")
    kms.refuses("Decapsulate", "InvalidKeyUsageException", KeyId=wrong, EncapsulationAlgorithm="ML_KEM",
                SharedSecretCiphertextBlob=b"x" * 768)


def grants():
    key = make()["KeyId"]
    theirs = f"arn:aws:iam::{OTHER}:root"
    made = kms.CreateGrant(KeyId=key, GranteePrincipal=theirs, RetiringPrincipal=theirs, Name="one",
                           Operations=["Encrypt", "Decrypt", "RetireGrant"],
                           Constraints={"EncryptionContextSubset": {"a": "b"}})
    assert len(made["GrantId"]) == 64, made
    blob = other.Encrypt(KeyId=arn(key), Plaintext=b"x", EncryptionContext={"a": "b"}, GrantTokens=[made["GrantToken"]])
    assert other.Decrypt(CiphertextBlob=blob["CiphertextBlob"], EncryptionContext={"a": "b"})["Plaintext"] == b"x"
    other.refuses("Encrypt", "AccessDeniedException", KeyId=arn(key), Plaintext=b"x")
    found = kms.ListGrants(KeyId=key)["Grants"]
    assert [g["GrantId"] for g in found] == [made["GrantId"]] and found[0]["Name"] == "one", found
    assert found[0]["IssuingAccount"] == ROOT, found
    assert [g["GrantId"] for g in other.ListRetirableGrants(RetiringPrincipal=theirs)["Grants"]] == [made["GrantId"]]
    other.RetireGrant(GrantToken=made["GrantToken"])
    second = kms.CreateGrant(KeyId=key, GranteePrincipal=theirs, Operations=["DescribeKey"])
    kms.RevokeGrant(KeyId=key, GrantId=second["GrantId"])
    assert kms.ListGrants(KeyId=key)["Grants"] == []
    kms.refuses("CreateGrant", "DryRunOperationException", KeyId=key, GranteePrincipal=theirs, Operations=["Decrypt"], DryRun=True)
    kms.refuses("CreateGrant", "DisabledException", KeyId=disabled(), GranteePrincipal=theirs, Operations=["Decrypt"])
    kms.refuses("CreateGrant", "ValidationException", KeyId=key, GranteePrincipal=theirs, Operations=["Sign"])
    kms.refuses("RevokeGrant", "NotFoundException", KeyId=key, GrantId="0" * 64)
    kms.refuses("RetireGrant", "NotFoundException", KeyId=arn(key), GrantId="0" * 64)
    kms.refuses("RetireGrant", "InvalidGrantTokenException", GrantToken="none")
    kms.refuses("ListGrants", "NotFoundException", KeyId=NO_KEY)
    kms.refuses("ListGrants", "InvalidMarkerException", KeyId=key, Marker="none")
    other.refuses("ListRetirableGrants", "InvalidMarkerException", RetiringPrincipal=theirs, Marker="none")
    kms.refuses("ListRetirableGrants", "AccessDeniedException", RetiringPrincipal=theirs)


def imports():
    made = make(Origin="EXTERNAL")
    key, material = made["KeyId"], os.urandom(32)
    assert made["KeyState"] == "PendingImport" and made["Origin"] == "EXTERNAL", made
    kms.refuses("Encrypt", "KMSInvalidStateException", f"{arn(key)} is pending import.", KeyId=key, Plaintext=b"x")

    def parameters(algorithm):
        told = kms.GetParametersForImport(KeyId=key, WrappingAlgorithm=algorithm, WrappingKeySpec="RSA_2048")
        assert 86000 < (told["ParametersValidTo"] - soon()).total_seconds() < 86500, told
        return told["ImportToken"], serialization.load_der_public_key(told["PublicKey"])

    def oaep(hash):
        return padding.OAEP(padding.MGF1(hash), hash, None)

    token, wrapping = parameters("RSAES_OAEP_SHA_256")
    wrapped = wrapping.encrypt(material, oaep(hashes.SHA256()))
    kms.refuses("ImportKeyMaterial", "InvalidImportTokenException", KeyId=key, ImportToken=b"x" * 100,
                EncryptedKeyMaterial=wrapped, ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE")
    kms.refuses("ImportKeyMaterial", "InvalidCiphertextException", KeyId=key, ImportToken=token,
                EncryptedKeyMaterial=b"x" * 256, ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE")
    kms.refuses("ImportKeyMaterial", "ValidationException", KeyId=key, ImportToken=token, EncryptedKeyMaterial=wrapped)
    done = kms.ImportKeyMaterial(KeyId=key, ImportToken=token, EncryptedKeyMaterial=wrapped,
                                 ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE")
    assert done["KeyId"] == arn(key), done
    told = kms.DescribeKey(KeyId=key)["KeyMetadata"]
    assert told["KeyState"] == "Enabled" and told["ExpirationModel"] == "KEY_MATERIAL_DOES_NOT_EXPIRE", told
    blob = kms.Encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    kms.DeleteImportedKeyMaterial(KeyId=key)
    kms.refuses("Decrypt", "KMSInvalidStateException", CiphertextBlob=blob)
    token, wrapping = parameters("RSAES_OAEP_SHA_1")
    kms.refuses("ImportKeyMaterial", "IncorrectKeyMaterialException", KeyId=key, ImportToken=token,
                EncryptedKeyMaterial=wrapping.encrypt(os.urandom(32), oaep(hashes.SHA1())),
                ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE")
    token, wrapping = parameters("RSA_AES_KEY_WRAP_SHA_256")
    ephemeral = os.urandom(32)
    wrapped = wrapping.encrypt(ephemeral, oaep(hashes.SHA256())) + keywrap.aes_key_wrap_with_padding(ephemeral, material)
    kms.ImportKeyMaterial(KeyId=key, ImportToken=token, EncryptedKeyMaterial=wrapped, ExpirationModel="KEY_MATERIAL_EXPIRES",
                          ValidTo=soon() + datetime.timedelta(days=1))
    assert kms.Decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    assert kms.DescribeKey(KeyId=key)["KeyMetadata"]["ValidTo"]
    kms.refuses("EnableKeyRotation", "UnsupportedOperationException", KeyId=key)
    own = make()["KeyId"]
    kms.refuses("GetParametersForImport", "UnsupportedOperationException", KeyId=own, WrappingAlgorithm="RSAES_OAEP_SHA_256",
                WrappingKeySpec="RSA_2048")
    kms.refuses("DeleteImportedKeyMaterial", "UnsupportedOperationException", KeyId=own)
    kms.refuses("GetParametersForImport", "NotFoundException", KeyId=NO_KEY, WrappingAlgorithm="RSAES_OAEP_SHA_256",
                WrappingKeySpec="RSA_2048")


def replicas():
    made = make(MultiRegion=True, Description="primary")
    key = made["KeyId"]
    assert key.startswith("mrk-") and made["MultiRegionConfiguration"]["MultiRegionKeyType"] == "PRIMARY", made
    done = kms.ReplicateKey(KeyId=key, ReplicaRegion="eu-west-1", Tags=[{"TagKey": "a", "TagValue": "b"}])
    replica = done["ReplicaKeyMetadata"]
    assert replica["KeyId"] == key and replica["Arn"] == arn(key).replace("us-east-1", "eu-west-1"), replica
    assert done["ReplicaTags"] == [{"TagKey": "a", "TagValue": "b"}], done
    blob = kms.Encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    assert eu.Decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    told = kms.DescribeKey(KeyId=key)["KeyMetadata"]["MultiRegionConfiguration"]
    assert [r["Region"] for r in told["ReplicaKeys"]] == ["eu-west-1"], told
    kms.refuses("ReplicateKey", "AlreadyExistsException", KeyId=key, ReplicaRegion="eu-west-1")
    kms.UpdatePrimaryRegion(KeyId=key, PrimaryRegion="eu-west-1")
    assert kms.DescribeKey(KeyId=key)["KeyMetadata"]["MultiRegionConfiguration"]["MultiRegionKeyType"] == "REPLICA"
    kms.refuses("UpdatePrimaryRegion", "UnsupportedOperationException", KeyId=key, PrimaryRegion="eu-west-1")
    kms.refuses("ReplicateKey", "UnsupportedOperationException", KeyId=make()["KeyId"], ReplicaRegion="eu-west-1")
    kms.refuses("UpdatePrimaryRegion", "NotFoundException", KeyId=NO_KEY, PrimaryRegion="eu-west-1")


def stores():
    """Custom key stores are not here."""
    store = "cks-1234567890abcdef0"
    for operation, parameters in {
        "ConnectCustomKeyStore": {"CustomKeyStoreId": store},
        "CreateCustomKeyStore": {"CustomKeyStoreName": "x"},
        "DeleteCustomKeyStore": {"CustomKeyStoreId": store},
        "DescribeCustomKeyStores": {},
        "DisconnectCustomKeyStore": {"CustomKeyStoreId": store},
        "UpdateCustomKeyStore": {"CustomKeyStoreId": store},
    }.items():
        # The model does not give these operations that error; nor can it.
        try:
            getattr(kms.client, kms.methods[operation])(**parameters)
        except kms.client.exceptions.UnsupportedOperationException:
            kms.judge.refused.add(operation)
        else:
            raise AssertionError(f"{operation} was to be refused")


def trail():
    """CloudTrail, which is judged by its own model."""
    service = Service("cloudtrail")
    key = make(Description="to be found")["KeyId"]
    found = service.LookupEvents(LookupAttributes=[{"AttributeKey": "ResourceName", "AttributeValue": arn(key)}])["Events"]
    told = json.loads(found[0]["CloudTrailEvent"])
    assert found[0]["EventName"] == "CreateKey" and told["responseElements"], found
    assert told["userAgent"].startswith("Boto3/") and told["sourceIPAddress"] == "127.0.0.1", told
    page = service.LookupEvents(MaxResults=1)
    assert len(page["Events"]) == 1 and service.LookupEvents(MaxResults=1, NextToken=page["NextToken"])["Events"], page
    service.refuses("LookupEvents", "InvalidNextTokenException", NextToken="none")
    service.refuses("LookupEvents", "InvalidTimeRangeException", StartTime=soon(), EndTime=soon() - datetime.timedelta(days=1))
    trails = service.DescribeTrails()["trailList"]
    assert [trail["IncludeGlobalServiceEvents"] for trail in trails] == [False, True], trails
    for trail in trails:
        assert trail["HomeRegion"] == "us-east-1" and trail["LogFileValidationEnabled"] is True, trail
        assert service.GetTrailStatus(Name=trail["TrailARN"])["IsLogging"] is True
    service.refuses("GetTrailStatus", "TrailNotFoundException", Name="none")
    assert isinstance(service.ListPublicKeys()["PublicKeyList"], list)
    service.refuses("ListPublicKeys", "InvalidTimeRangeException", StartTime=soon(), EndTime=soon() - datetime.timedelta(days=1))


def identity():
    """IAM and STS, each judged by its own model; users and sessions sign."""
    iam, sts = Service("iam"), Service("sts")
    who = sts.GetCallerIdentity()
    assert (who["Arn"], who["Account"], who["UserId"]) == (ROOT, ACCOUNT, ACCOUNT), who
    user = iam.CreateUser(UserName="alice", Path="/staff/", Tags=[{"Key": "a", "Value": "b"}])["User"]
    assert user["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/staff/alice" and user["UserId"].startswith("AIDA"), user
    iam.refuses("CreateUser", "EntityAlreadyExists", UserName="alice")
    iam.refuses("GetUser", "NoSuchEntity", UserName="nobody")
    assert iam.GetUser(UserName="alice")["User"]["UserId"] == user["UserId"]
    assert "alice" in [u["UserName"] for u in iam.ListUsers()["Users"]]
    allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}
    iam.PutUserPolicy(UserName="alice", PolicyName="keys", PolicyDocument=json.dumps(allow))
    assert iam.GetUserPolicy(UserName="alice", PolicyName="keys")["PolicyDocument"] == allow
    assert iam.ListUserPolicies(UserName="alice")["PolicyNames"] == ["keys"]
    iam.refuses("PutUserPolicy", "MalformedPolicyDocument", UserName="alice", PolicyName="bad", PolicyDocument="{}")
    made = iam.CreateAccessKey(UserName="alice")["AccessKey"]
    alice = (made["AccessKeyId"], made["SecretAccessKey"])
    assert Service("sts", credentials=alice).GetCallerIdentity()["Arn"] == user["Arn"]
    theirs = Service("kms", credentials=alice)
    key = make()["KeyId"]
    blob = theirs.Encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    iam.DeleteUserPolicy(UserName="alice", PolicyName="keys")
    theirs.refuses("Decrypt", "AccessDeniedException", CiphertextBlob=blob)
    assert iam.ListAccessKeys(UserName="alice")["AccessKeyMetadata"][0]["AccessKeyId"] == alice[0]

    policy = iam.CreatePolicy(PolicyName="keys", PolicyDocument=json.dumps(allow))["Policy"]
    iam.CreateGroup(GroupName="staff")
    iam.AddUserToGroup(GroupName="staff", UserName="alice")
    iam.AttachGroupPolicy(GroupName="staff", PolicyArn=policy["Arn"])
    assert theirs.Decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    assert [u["UserName"] for u in iam.GetGroup(GroupName="staff")["Users"]] == ["alice"]
    assert iam.ListAttachedGroupPolicies(GroupName="staff")["AttachedPolicies"][0]["PolicyName"] == "keys"
    assert iam.GetPolicyVersion(PolicyArn=policy["Arn"], VersionId="v1")["PolicyVersion"]["IsDefaultVersion"] is True
    iam.refuses("DeletePolicy", "DeleteConflict", PolicyArn=policy["Arn"])

    trust = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": user["Arn"]}, "Action": "sts:AssumeRole"}]}
    role = iam.CreateRole(RoleName="opener", AssumeRolePolicyDocument=json.dumps(trust))["Role"]
    assert iam.GetRole(RoleName="opener")["Role"]["RoleId"] == role["RoleId"]
    iam.AttachRolePolicy(RoleName="opener", PolicyArn=policy["Arn"])
    assert "opener" in [r["RoleName"] for r in iam.ListRoles()["Roles"]]
    assume = {"RoleArn": role["Arn"], "RoleSessionName": "test"}
    iam.PutUserPolicy(UserName="alice", PolicyName="assume", PolicyDocument=json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}]}))
    given = Service("sts", credentials=alice).AssumeRole(**assume)
    session = tuple(given["Credentials"][n] for n in ("AccessKeyId", "SecretAccessKey", "SessionToken"))
    who = Service("sts", credentials=session).GetCallerIdentity()
    assert who["Arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/opener/test", who
    assert Service("kms", credentials=session).Decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    sts.refuses("AssumeRole", "AccessDenied", **assume)
    own = Service("sts", credentials=alice).GetSessionToken()["Credentials"]
    own = tuple(own[n] for n in ("AccessKeyId", "SecretAccessKey", "SessionToken"))
    assert Service("sts", credentials=own).GetCallerIdentity()["Arn"] == user["Arn"]
    forged = (*session[:2], session[2][:-8] + "AAAAAAAA")
    Service("sts", credentials=forged).refuses("GetCallerIdentity", "InvalidClientTokenId", **{})

    iam.UpdateAccessKey(UserName="alice", AccessKeyId=alice[0], Status="Inactive")
    Service("sts", credentials=alice).refuses("GetCallerIdentity", "InvalidClientTokenId")
    iam.refuses("DeleteUser", "DeleteConflict", UserName="alice")
    iam.DeleteAccessKey(UserName="alice", AccessKeyId=alice[0])
    iam.DeleteUserPolicy(UserName="alice", PolicyName="assume")
    iam.RemoveUserFromGroup(GroupName="staff", UserName="alice")
    iam.DetachGroupPolicy(GroupName="staff", PolicyArn=policy["Arn"])
    iam.DetachRolePolicy(RoleName="opener", PolicyArn=policy["Arn"])
    for operation, parameters in {"DeleteUser": {"UserName": "alice"}, "DeleteGroup": {"GroupName": "staff"},
                                  "DeleteRole": {"RoleName": "opener"}, "DeletePolicy": {"PolicyArn": policy["Arn"]}}.items():
        getattr(iam, operation)(**parameters)
        iam.refuses(operation, "NoSuchEntity", **parameters)


KMS = {
    "keys": keys, "aliases": aliases, "policies": policies, "tags": tags, "rotation": rotation, "symmetric": symmetric,
    "pairs": pairs, "kem": kem, "grants": grants, "imports": imports, "replicas": replicas, "stores": stores,
}


def main():
    asked = sys.argv[1:]
    for name in asked:
        {**KMS, "trail": trail, "identity": identity}[name]()
        print(f"{name}: ok")
    done = set().union(*(s.judge.done for s in ALL))
    refused = set().union(*(s.judge.refused for s in ALL))
    print(f"{len(done)} operations answered, {len(refused)} refused")
    if set(asked) >= set(KMS):
        every = set(kms.judge.model.operation_names)
        store = {name for name in every if "CustomKeyStore" in name}
        assert every - store <= done, f"never answered: {every - store - done}"
        assert every <= refused, f"never refused: {every - refused}"
        print(f"all {len(every)} operations of botocore's model")


main()
