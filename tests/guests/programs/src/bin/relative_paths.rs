//! Works with relative paths.
use std::fs;

fn main() -> std::io::Result<()> {
    fs::create_dir_all("a/b")?;
    fs::write("a/b/file.txt", "relative")?;
    println!("{}", fs::read_to_string("/release/a/b/file.txt")?);
    fs::rename("a/b/file.txt", "/release/moved.txt")?;
    println!("{}", fs::read_to_string("moved.txt")?);
    let mut names: Vec<_> = fs::read_dir(".")?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<std::io::Result<_>>()?;
    names.sort();
    println!("{names:?}");
    fs::write("/tmp/scratch", "scratch")?;
    fs::copy("/tmp/scratch", "copied")?;
    println!("{}", std::env::current_dir()?.display());
    Ok(())
}
