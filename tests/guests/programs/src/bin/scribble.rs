//! Opens every file of its release for writing, in every way there is, and changes it: by its name, through a second
//! name, by truncating it, by replacing it.
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

fn main() -> io::Result<()> {
    let mut number = 0;
    scribble(Path::new("/release"), &mut number)?;
    println!("scribbled in {number} files");
    Ok(())
}

fn scribble(directory: &Path, number: &mut usize) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(directory)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            scribble(&path, number)?;
            continue;
        }
        *number += 1;
        OpenOptions::new()
            .write(true)
            .open(&path)?
            .write_all(b"in the middle")?;
        OpenOptions::new()
            .append(true)
            .open(&path)?
            .write_all(b"and at the end")?;
        let second = path.with_extension("second");
        fs::hard_link(&path, &second)?;
        fs::write(&second, "through a second name")?;
        match *number % 3 {
            0 => OpenOptions::new().write(true).open(&path)?.set_len(1)?,
            1 => fs::rename(&second, &path)?,
            _ => fs::remove_file(&path)?,
        }
    }
    Ok(())
}
