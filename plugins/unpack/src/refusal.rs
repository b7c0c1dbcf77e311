//! Why a package is not taken.

use std::fmt;
use std::io;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)+) => {
        /// Why a package is not taken, as a stable word.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $variant,)+
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Reason] = &[$(Reason::$variant,)+];

            /// The word that stands for this reason in the output `refused`; it never changes.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Reason::$variant => $word,)+ }
            }
        }
    };
}

reasons! {
    /// The bytes are no archive of a kind that is taken.
    FormatUnknown = "format_unknown",
    /// The package ends before the archive does.
    Truncated = "truncated",
    /// Compressed data that does not decompress, or a checksum that does not match.
    Corrupt = "corrupt",
    /// Something follows the archive's end: a second archive, or bytes of no meaning.
    TrailingData = "trailing_data",
    /// A header with a wrong checksum or a number that is none.
    HeaderInvalid = "header_invalid",
    /// Extended headers that repeat or contradict each other, or that apply to everything.
    HeaderAmbiguous = "header_ambiguous",
    /// Two places give an entry's size, and they differ.
    SizeDisagrees = "size_disagrees",
    /// An absolute name.
    PathAbsolute = "path_absolute",
    /// A name with `..` in it.
    PathEscapes = "path_escapes",
    /// A name that is longer than a file system takes.
    PathTooLong = "path_too_long",
    /// A name below something that the same archive made a symbolic link.
    PathThroughLink = "path_through_link",
    /// A name below something that the same archive made a file.
    PathThroughFile = "path_through_file",
    /// A directory with the name of a symbolic link.
    DirectoryOverLink = "directory_over_link",
    /// No name at all.
    NameEmpty = "name_empty",
    /// A name that is not UTF-8.
    NameNotUtf8 = "name_not_utf8",
    /// A name with control characters, or with characters that turn the direction of writing.
    NameControlCharacters = "name_control_characters",
    /// A name with a backslash: a separator to some readers and a letter to others.
    NameBackslash = "name_backslash",
    /// A name whose field goes on after its end.
    NameAmbiguous = "name_ambiguous",
    /// Two names that differ only in case or in Unicode normalisation.
    NameCollides = "name_collides",
    /// Two entries for one name.
    EntryDuplicate = "entry_duplicate",
    /// An entry that is a file to some readers and a directory to others.
    EntryAmbiguous = "entry_ambiguous",
    /// A directory or a link that brings data.
    EntryWithData = "entry_with_data",
    /// An entry of an unknown type.
    EntryUnknown = "entry_unknown",
    /// A device, a FIFO or a socket.
    SpecialFile = "special_file",
    /// A sparse file.
    Sparse = "sparse",
    /// A symbolic link to an absolute path.
    LinkAbsolute = "link_absolute",
    /// A symbolic link that leaves the release, or that could.
    LinkEscapes = "link_escapes",
    /// A hard link to something that is no file of this archive, before it.
    HardLinkTarget = "hard_link_target",
    /// More entries than allowed.
    TooManyEntries = "too_many_entries",
    /// More bytes than allowed.
    TooLarge = "too_large",
    /// Contents out of all proportion to the package.
    DecompressionBomb = "decompression_bomb",
    /// `strip` was asked for, and not everything is in one directory.
    StripMismatch = "strip_mismatch",
    /// A zip whose local header says something else than its directory.
    ZipDisagrees = "zip_disagrees",
    /// A zip whose entries overlap or leave gaps, or whose directory is not where its end says.
    ZipLayout = "zip_layout",
    /// An encrypted zip.
    ZipEncrypted = "zip_encrypted",
    /// A zip with a compression other than deflate.
    ZipMethod = "zip_method",
}

/// A package that is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Why, as a word for programs.
    pub reason: Reason,
    /// Why, as a sentence for people; names from the archive are escaped in it.
    pub message: String,
}

impl Refused {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Refused {
        Refused {
            reason,
            message: message.into(),
        }
    }

    /// For readers, whose errors have to be of one type.
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.reason.word())
    }
}

impl std::error::Error for Refused {}

/// A name from an archive, made safe to print: quoted, control characters escaped, cut when very long.
pub(crate) fn shown(name: impl AsRef<[u8]>) -> String {
    /// Enough to recognise a path by.
    const LONGEST: usize = 200;

    let text = String::from_utf8_lossy(name.as_ref());
    let mut shown: String = text.escape_debug().take(LONGEST).collect();
    if text.chars().count() > LONGEST {
        shown.push('…');
    }
    format!("\"{shown}\"")
}
