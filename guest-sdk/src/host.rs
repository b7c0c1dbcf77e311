//! The calls themselves: to the host that runs the component, or to its native stand-in.

#[cfg(target_os = "wasi")]
mod component;
#[cfg(target_os = "wasi")]
pub(crate) use component::*;

#[cfg(not(target_os = "wasi"))]
pub(crate) mod local;
#[cfg(not(target_os = "wasi"))]
pub(crate) use local::*;
