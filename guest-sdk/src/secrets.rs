//! Secrets, granted by name.

use crate::{Error, host};

/// The bytes of a secret that was granted to this step by name. Secrets are never in the environment.
///
/// # Errors
///
/// [`Error::SecretNotGranted`] when the step's request does not name it or the policy does not allow it,
/// [`Error::SecretUnavailable`] when the host failed to read it.
pub fn secret(name: &str) -> Result<Vec<u8>, Error> {
    host::secret(name)
}
