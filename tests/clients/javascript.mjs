// The AWS SDK for JavaScript: javascript.mjs NODE_MODULES; environment as for conformance.py.

import assert from "node:assert/strict";
import { createPublicKey, verify } from "node:crypto";
import { createRequire } from "node:module";

const require = createRequire(`${process.argv[2]}/`);
const sdk = require("@aws-sdk/client-kms");

// The server is found through AWS_ENDPOINT_URL, as by every SDK.
const kms = new sdk.KMSClient({ region: "us-east-1", maxAttempts: 1 });
const call = (name, input = {}) => kms.send(new sdk[`${name}Command`](input));

const made = await call("CreateKey", { Description: "of JavaScript" });
const KeyId = made.KeyMetadata.KeyId;
assert.ok(made.KeyMetadata.CreationDate instanceof Date);
await call("CreateAlias", { AliasName: "alias/javascript", TargetKeyId: KeyId });

const context = { purpose: "test" };
const sealed = await call("Encrypt", {
  KeyId: "alias/javascript",
  Plaintext: Buffer.from("secret"),
  EncryptionContext: context,
});
const opened = await call("Decrypt", { CiphertextBlob: sealed.CiphertextBlob, EncryptionContext: context });
assert.equal(Buffer.from(opened.Plaintext).toString(), "secret");
await assert.rejects(call("Decrypt", { CiphertextBlob: sealed.CiphertextBlob }), (error) => {
  assert.ok(error instanceof sdk.InvalidCiphertextException, String(error));
  assert.equal(error.$metadata.httpStatusCode, 400);
  assert.match(error.$metadata.requestId, /^[0-9a-f-]{36}$/);
  return true;
});
const data = await call("GenerateDataKey", { KeyId, KeySpec: "AES_256" });
assert.equal(data.Plaintext.length, 32);

const signer = (await call("CreateKey", { KeySpec: "ECC_NIST_P256", KeyUsage: "SIGN_VERIFY" })).KeyMetadata.KeyId;
const signed = await call("Sign", {
  KeyId: signer,
  Message: Buffer.from("m"),
  SigningAlgorithm: "ECDSA_SHA_256",
});
const { PublicKey } = await call("GetPublicKey", { KeyId: signer });
const key = createPublicKey({ key: Buffer.from(PublicKey), format: "der", type: "spki" });
assert.ok(verify("sha256", Buffer.from("m"), key, signed.Signature));

const seen = [];
for await (const page of sdk.paginateListKeys({ client: kms, pageSize: 2 }, {})) {
  seen.push(...page.Keys.map((entry) => entry.KeyId));
}
assert.ok(seen.includes(KeyId) && new Set(seen).size === seen.length);

await call("DisableKey", { KeyId });
await assert.rejects(call("Encrypt", { KeyId, Plaintext: Buffer.from("x") }), sdk.DisabledException);
await assert.rejects(call("DescribeKey", { KeyId: "alias/none" }), sdk.NotFoundException);

const stranger = new sdk.KMSClient({
  region: "us-east-1",
  maxAttempts: 1,
  credentials: { accessKeyId: process.env.AWS_ACCESS_KEY_ID, secretAccessKey: "of somebody else" },
});
await assert.rejects(stranger.send(new sdk.ListKeysCommand({})), (error) => {
  assert.equal(error.name, "InvalidSignatureException");
  return true;
});
console.log("javascript: ok");
