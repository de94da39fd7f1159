//! Requests about custom key stores, which there are none of here.

use serde::Deserialize;

/// Declares requests of which nothing is read.
macro_rules! refused {
    ($($name:ident, $text:literal;)*) => {$(
        #[doc = concat!($text, ": refused, whatever it says.")]
        #[derive(Clone, Default, Deserialize)]
        pub struct $name {}
    )*};
}

refused! {
    CreateCustomKeyStoreRequest, "CreateCustomKeyStore";
    ConnectCustomKeyStoreRequest, "ConnectCustomKeyStore";
    DescribeCustomKeyStoresRequest, "DescribeCustomKeyStores";
    DisconnectCustomKeyStoreRequest, "DisconnectCustomKeyStore";
    UpdateCustomKeyStoreRequest, "UpdateCustomKeyStore";
    DeleteCustomKeyStoreRequest, "DeleteCustomKeyStore";
}
