//! The pages asked for lately, held in memory within a fixed number of bytes.
//!
//! Two generations stand in for a list ordered by use: what is asked for moves to the young one; when that
//! is full it becomes the old one, and what was still in the old one goes. A hit in the young generation,
//! which is nearly every hit, takes a shared lock only.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::site::Page;

type Pages = HashMap<Box<[u8]>, Arc<Page>>;

/// A bounded map from a file of a release to its page.
pub(super) struct Shelf {
    /// What one generation may cost, in bytes.
    generation: usize,
    pages: RwLock<Generations>,
}

#[derive(Default)]
struct Generations {
    young: Pages,
    young_cost: usize,
    old: Pages,
}

impl Shelf {
    /// A shelf whose pages cost at most `bytes`.
    pub(super) fn new(bytes: usize) -> Shelf {
        Shelf {
            generation: bytes / 2,
            pages: RwLock::default(),
        }
    }

    /// The page under a key, which then counts as used.
    pub(super) fn get(&self, key: &[u8]) -> Option<Arc<Page>> {
        {
            let pages = self.read();
            if let Some(page) = pages.young.get(key) {
                return Some(page.clone());
            }
            pages.old.get(key)?;
        }
        let mut pages = self.write();
        let (key, page) = pages.old.remove_entry(key)?;
        let retired = pages.put(key, page.clone(), self.generation);
        drop(pages);
        drop(retired);
        Some(page)
    }

    /// Keeps a page. One that would fill a generation by itself is not kept.
    pub(super) fn put(&self, key: Vec<u8>, page: Arc<Page>) {
        if cost(&key, &page) <= self.generation {
            let retired = self
                .write()
                .put(key.into_boxed_slice(), page, self.generation);
            drop(retired);
        }
    }

    // A panic cannot leave the maps half changed in a way that matters: at worst a page is read again.
    fn read(&self) -> RwLockReadGuard<'_, Generations> {
        self.pages.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Generations> {
        self.pages.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    /// Puts a page among the young, and returns what goes for it, to be dropped without the lock.
    fn put(&mut self, key: Box<[u8]>, page: Arc<Page>, limit: usize) -> Option<Pages> {
        let (length, cost) = (key.len(), cost(&key, &page));
        let retired = (self.young_cost + cost > limit).then(|| {
            self.young_cost = 0;
            std::mem::replace(&mut self.old, std::mem::take(&mut self.young))
        });
        self.young_cost += cost;
        if let Some(replaced) = self.young.insert(key, page) {
            self.young_cost -= length + replaced.cost();
        }
        retired
    }
}

fn cost(key: &[u8], page: &Page) -> usize {
    key.len() + page.cost()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn page(bytes: usize) -> Arc<Page> {
        Arc::new(Page::of(Bytes::from(vec![7; bytes])))
    }

    fn held(shelf: &Shelf) -> usize {
        let pages = shelf.read();
        let all = pages.young.iter().chain(&pages.old);
        all.map(|(key, page)| cost(key, page)).sum()
    }

    #[test]
    fn a_shelf_never_holds_more_than_it_may() {
        let shelf = Shelf::new(64 * 1024);
        for number in 0..1000_usize {
            shelf.put(number.to_string().into_bytes(), page(number * 37 % 5000));
            assert!(held(&shelf) <= 64 * 1024);
        }
        assert!(shelf.get(b"999").is_some());
        assert!(shelf.get(b"0").is_none());
    }

    #[test]
    fn what_is_asked_for_stays() {
        let shelf = Shelf::new(64 * 1024);
        shelf.put(b"kept".to_vec(), page(100));
        for number in 0..1000_usize {
            shelf.put(number.to_string().into_bytes(), page(1000));
            assert!(shelf.get(b"kept").is_some(), "lost after {number}");
        }
    }

    #[test]
    fn putting_a_page_twice_costs_once() {
        let shelf = Shelf::new(64 * 1024);
        for _ in 0..1000 {
            shelf.put(b"same".to_vec(), page(1000));
        }
        assert_eq!(shelf.read().young_cost, held(&shelf));
    }

    #[test]
    fn a_page_larger_than_a_generation_is_not_kept() {
        let shelf = Shelf::new(64 * 1024);
        shelf.put(b"small".to_vec(), page(10));
        shelf.put(b"large".to_vec(), page(40_000));
        assert!(shelf.get(b"large").is_none());
        assert!(shelf.get(b"small").is_some());
    }
}
