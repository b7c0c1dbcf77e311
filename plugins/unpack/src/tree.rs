//! What has been written so far, and through which directories.
//!
//! Every entry is made relative to the open descriptor of its directory, by a single name, in a tree that
//! this step built itself: no path is ever resolved, so nothing can be resolved to somewhere else.

use std::collections::{HashMap, VecDeque};

use crate::Error;
use crate::name::{Name, folded};
use crate::place::{Directory, File, Reading};
use crate::refusal::{Reason, Refused, shown};

/// How many directories stay open. Archives go depth first, so the ones in use are the latest; a step has a
/// limited number of handles.
const OPEN_DIRECTORIES: usize = 48;

/// The index of a directory in the tree.
type Index = usize;

const ROOT: Index = 0;

#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    /// The directories that are open, oldest first. The root is always open and not among them.
    open: VecDeque<Index>,
    /// The directory of the last entry, and its path: the next entry is usually beside it.
    last: (String, Index),
    directories: u64,
}

#[derive(Debug)]
struct Node {
    parent: Index,
    name: Box<str>,
    handle: Option<Directory>,
    /// Keyed by the folded name, so that names which other file systems cannot tell apart meet here.
    children: HashMap<Box<str>, Child>,
}

#[derive(Debug)]
struct Child {
    /// The name, when it is not the folded one.
    name: Option<Box<str>>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory(Index),
    File,
    Link,
}

impl Tree {
    pub(crate) fn new(root: Directory) -> Tree {
        Tree {
            nodes: vec![Node {
                parent: ROOT,
                name: "".into(),
                handle: Some(root),
                children: HashMap::new(),
            }],
            open: VecDeque::new(),
            last: (String::new(), ROOT),
            directories: 0,
        }
    }

    /// How many directories were made.
    pub(crate) fn directories(&self) -> u64 {
        self.directories
    }

    /// Makes a directory, or finds the one that is there.
    pub(crate) fn directory(&mut self, name: &Name) -> Result<(), Error> {
        if name.is_root() {
            return Ok(());
        }
        let (parent, last) = self.parent(name)?;
        match self.child(parent, last, name)? {
            None => self.create_directory(parent, last, name).map(|_| ()),
            Some(Kind::Directory(_)) => Ok(()),
            Some(Kind::Link) => Err(Refused::new(
                Reason::DirectoryOverLink,
                format!(
                    "{} is a symbolic link and then a directory",
                    shown(name.as_str())
                ),
            )
            .into()),
            Some(Kind::File) => Err(duplicate(name)),
        }
    }

    /// Makes a new, empty file.
    pub(crate) fn file(&mut self, name: &Name) -> Result<File, Error> {
        let (parent, last) = self.vacant(name)?;
        let file = self
            .opened(parent, name)?
            .create_file(last)
            .map_err(Error::disk(shown(name.as_str())))?;
        self.insert(parent, last, Kind::File);
        Ok(file)
    }

    /// Makes a symbolic link; the caller has judged its target.
    pub(crate) fn symlink(&mut self, name: &Name, target: &str) -> Result<(), Error> {
        let (parent, last) = self.vacant(name)?;
        self.opened(parent, name)?
            .create_symlink(target, last)
            .map_err(Error::disk(shown(name.as_str())))?;
        self.insert(parent, last, Kind::Link);
        Ok(())
    }

    /// Opens a file that an earlier entry wrote, under exactly this name; `None` when there is none.
    pub(crate) fn written_file(&mut self, name: &Name) -> Result<Option<Reading>, Error> {
        let mut node = ROOT;
        let (parents, last) = name.split_last();
        for part in parts(parents) {
            match self.exact(node, part) {
                Some(Kind::Directory(child)) => node = child,
                _ => return Ok(None),
            }
        }
        if self.exact(node, last) != Some(Kind::File) {
            return Ok(None);
        }
        let file = self
            .opened(node, name)?
            .open_file(last)
            .map_err(Error::disk(shown(name.as_str())))?;
        Ok(Some(file))
    }

    /// The place of a file or link, where nothing may be yet.
    fn vacant<'n>(&mut self, name: &'n Name) -> Result<(Index, &'n str), Error> {
        if name.is_root() {
            return Err(duplicate(name));
        }
        let (parent, last) = self.parent(name)?;
        match self.child(parent, last, name)? {
            None => Ok((parent, last)),
            Some(_) => Err(duplicate(name)),
        }
    }

    /// The directory that holds an entry, made with all above it when it is not there yet, and the entry's
    /// own part of the name.
    fn parent<'n>(&mut self, name: &'n Name) -> Result<(Index, &'n str), Error> {
        let (parents, last) = name.split_last();
        if self.last.0 == parents {
            return Ok((self.last.1, last));
        }
        let mut node = ROOT;
        for part in parts(parents) {
            node = match self.child(node, part, name)? {
                Some(Kind::Directory(child)) => child,
                None => self.create_directory(node, part, name)?,
                Some(Kind::Link) => {
                    return Err(Refused::new(
                        Reason::PathThroughLink,
                        format!(
                            "{} goes through {}, which this archive made a symbolic link",
                            shown(name.as_str()),
                            shown(part)
                        ),
                    )
                    .into());
                }
                Some(Kind::File) => {
                    return Err(Refused::new(
                        Reason::PathThroughFile,
                        format!(
                            "{} goes through {}, which this archive made a file",
                            shown(name.as_str()),
                            shown(part)
                        ),
                    )
                    .into());
                }
            };
        }
        self.last.0.clear();
        self.last.0.push_str(parents);
        self.last.1 = node;
        Ok((node, last))
    }

    /// What a directory holds under this name. Something under a name that only looks different is a
    /// collision.
    fn child(&self, node: Index, part: &str, name: &Name) -> Result<Option<Kind>, Refused> {
        let key = folded(part);
        let Some(child) = self.nodes[node].children.get(&*key) else {
            return Ok(None);
        };
        let known = child.name.as_deref().unwrap_or(&key);
        if known != part {
            return Err(Refused::new(
                Reason::NameCollides,
                format!(
                    "in {} the name {} is the same as {} where case or Unicode form is ignored",
                    shown(name.as_str()),
                    shown(part),
                    shown(known)
                ),
            ));
        }
        Ok(Some(child.kind))
    }

    fn exact(&self, node: Index, part: &str) -> Option<Kind> {
        let key = folded(part);
        let child = self.nodes[node].children.get(&*key)?;
        (child.name.as_deref().unwrap_or(&key) == part).then_some(child.kind)
    }

    fn create_directory(&mut self, parent: Index, part: &str, name: &Name) -> Result<Index, Error> {
        self.opened(parent, name)?
            .create_directory(part)
            .map_err(Error::disk(shown(name.as_str())))?;
        self.directories += 1;
        let node = self.nodes.len();
        self.nodes.push(Node {
            parent,
            name: part.into(),
            handle: None,
            children: HashMap::new(),
        });
        self.insert(parent, part, Kind::Directory(node));
        Ok(node)
    }

    fn insert(&mut self, node: Index, part: &str, kind: Kind) {
        let key = folded(part);
        let name = (*key != *part).then(|| part.into());
        self.nodes[node]
            .children
            .insert(key.into_owned().into_boxed_str(), Child { name, kind });
    }

    /// The open descriptor of a directory. Those above it are opened on the way when they were closed.
    fn opened(&mut self, node: Index, name: &Name) -> Result<&Directory, Error> {
        let mut closed = Vec::new();
        let mut at = node;
        while self.nodes[at].handle.is_none() {
            closed.push(at);
            at = self.nodes[at].parent;
        }
        for below in closed.into_iter().rev() {
            let parent = self.nodes[below].parent;
            let handle = self
                .held(parent)
                .open_directory(&self.nodes[below].name)
                .map_err(Error::disk(shown(name.as_str())))?;
            self.nodes[below].handle = Some(handle);
            self.open.push_back(below);
            if self.open.len() > OPEN_DIRECTORIES
                && let Some(oldest) = self.open.pop_front()
            {
                self.nodes[oldest].handle = None;
            }
        }
        Ok(self.held(node))
    }

    fn held(&self, node: Index) -> &Directory {
        self.nodes[node]
            .handle
            .as_ref()
            .expect("the root is always open, and what was opened last is never the oldest")
    }
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty())
}

fn duplicate(name: &Name) -> Error {
    Refused::new(
        Reason::EntryDuplicate,
        format!("{} is in the archive twice", shown(name.as_str())),
    )
    .into()
}
