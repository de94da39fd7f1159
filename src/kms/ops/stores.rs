//! Custom key stores: keys in somebody else's hardware. There are none here.

use std::sync::Arc;

use super::unsupported;
use crate::kms::KmsError;
use crate::kms::cache::Key;
use crate::kms::call::{Call, Result, Subject};
use crate::kms::events::Parameters;
use crate::kms::operation::Operation;
use crate::kms::region::Fault;
use crate::kms::wire::{
    ConnectCustomKeyStoreRequest, CreateCustomKeyStoreRequest, DeleteCustomKeyStoreRequest,
    DescribeCustomKeyStoresRequest, DisconnectCustomKeyStoreRequest, UpdateCustomKeyStoreRequest,
};

/// Refused to whoever may ask, and recorded.
macro_rules! refused {
    ($($request:ident),*) => {$(
        impl Operation for $request {
            type Response = ();

            fn check(&self) -> std::result::Result<(), KmsError> {
                Ok(())
            }

            fn subjects(&self) -> Vec<Subject<'_>> {
                Vec::new()
            }

            fn parameters(&self) -> Parameters<'_> {
                Parameters::default()
            }

            fn act(&self, _: &mut Call<'_, '_>, _: &[Arc<Key>]) -> Result<()> {
                Err(Fault::Refused(unsupported("this key service has no custom key stores")))
            }
        }
    )*};
}

refused!(
    CreateCustomKeyStoreRequest,
    ConnectCustomKeyStoreRequest,
    DescribeCustomKeyStoresRequest,
    DisconnectCustomKeyStoreRequest,
    UpdateCustomKeyStoreRequest,
    DeleteCustomKeyStoreRequest
);
