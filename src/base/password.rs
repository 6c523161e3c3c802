//! The password of a server whose address has none.

use std::env;
use std::path::Path;

use super::error::Error;
use super::secret::Secret;
use super::secret_file;

/// The password from these sources, in this order: `password`, the first line of the given file, the first
/// variable, the first line of the file that the second variable names. `of` names the server in errors.
pub(crate) fn given(
    of: &str,
    password: Option<&Secret>,
    file: Option<&Path>,
    variables: [&str; 2],
) -> Result<Option<String>, Error> {
    if let Some(password) = password {
        return Ok(Some(password.expose().to_owned()));
    }
    let file = match file {
        Some(file) => file.to_owned(),
        None => {
            if let Ok(password) = env::var(variables[0]) {
                return Ok(Some(password));
            }
            match env::var_os(variables[1]) {
                Some(file) => file.into(),
                None => return Ok(None),
            }
        }
    };
    let text = secret_file::text(&format!("the password of {of}"), &file)?;
    Ok(text.lines().next().map(str::to_owned))
}
