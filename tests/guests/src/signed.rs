//! A small program and minisign's signatures of it. The secret keys are lost, so no other bytes can be signed with
//! them.

/// A core module for WASI preview 1 that does nothing and succeeds.
pub const PROGRAM: &[u8] = b"\0asm\x01\0\0\0\
    \x01\x04\x01\x60\0\0\
    \x03\x02\x01\0\
    \x05\x03\x01\0\x01\
    \x07\x13\x02\x06memory\x02\0\x06_start\0\0\
    \x0a\x04\x01\x02\0\x0b";

/// A public key.
pub const KEY: &str = "RWSw1n0haw+phF7/Tq7px0EKlJPGyO3cb2NfH3DTfm/YXWhSystkgA8i";

/// Its id.
pub const KEY_ID: &str = "84A90F6B217DD6B0";

/// [`PROGRAM`] signed with [`KEY`].
pub const SIGNATURE: &str = concat!(
    "untrusted comment: signature from minisign secret key\n",
    "RUSw1n0haw+phKcWaX7FQmlPppVUfzoLE7upZNV5Laa4trKE9ZqBZX8ADyQHimljg9fNyFl8Mz5b7ShNZ76DfNOxb5HQLPQkXwU=\n",
    "trusted comment: a test program\n",
    "Hcvq7ak/5+3h6vflXkmR6ZdPF6+TH+MksZWqHzn8dka1GHiVU67vJuqukpvL4DP0AxDAzdNdTHOnPOOw4fAWBw==\n",
);

/// The same in minisign's old form, which signs the bytes and not their hash.
pub const LEGACY_SIGNATURE: &str = concat!(
    "untrusted comment: signature from minisign secret key\n",
    "RWSw1n0haw+phDGoQANShYhUY5Ie5uPi2mG38/3VHSSr26FTXFc1ptK3UOQVkj556i+GVJiUo9wEtzLD3ELf90b4HLoKdSz6lwM=\n",
    "trusted comment: a test program\n",
    "BhtJOZbTLkt+3k+0jKst1J9emPdbIfYrRyY4/AP1owzUMlEKZBiFSOq9qPbO784CugtHK9FTuAkOk4IkJH23CA==\n",
);

/// Another public key.
pub const OTHER_KEY: &str = "RWQosKKhLYzRmfoXYr54NavKDeUHpUTrneUEwK58MiW7BIjquZEGQiyy";

/// [`PROGRAM`] signed with [`OTHER_KEY`].
pub const OTHER_SIGNATURE: &str = concat!(
    "untrusted comment: signature from minisign secret key\n",
    "RUQosKKhLYzRmRUx0eaoe2DFWneI5MMMbrIARjSqgHlnM8M2OwE3vYBxKAlPPzF6gMvyvHjs2JHwOKgY4CzlCoROObJkSZrr6go=\n",
    "trusted comment: a test program\n",
    "o8iJ9WMxoKiBci7DG8MrKRw9AsL8w4CXsFntefdF9t/7cwgu2zrYQkcFhvJbHUSLzZ8+y3m40SZ9viTiqVM9CQ==\n",
);
