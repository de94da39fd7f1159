//! AWS KMS as the key service of a volume: `kmsfs --kms aws`, on real mounts, against `kmsfs serve`, and against moto as a
//! second server that others wrote.

mod calls;
mod hostile;
mod killed;
mod outage;
mod proxy;
mod volumes;
