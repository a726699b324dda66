//! All connections of a gate, by token; and who goes when there is no room.

use super::client::{Client, Phase};

/// A slab of connections. A token names a place and the generation that sits there, so that an event for a
/// connection that is gone never meets the next one.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    places: Vec<Option<Client>>,
    free: Vec<usize>,
    generation: u32,
    open: usize,
}

/// Tokens at and above this are not clients'.
pub(crate) const NOT_CLIENTS: u64 = 1 << 63;

impl Clients {
    pub(crate) fn len(&self) -> usize {
        self.open
    }

    /// The token and generation that the next connection will have.
    pub(crate) fn next(&mut self) -> (u64, u32) {
        let place = self.free.last().copied().unwrap_or(self.places.len());
        // 31 bits, so that no client's token reaches the others'.
        self.generation = (self.generation + 1) & 0x7fff_ffff;
        (u64::from(self.generation) << 32 | place as u64, self.generation)
    }

    /// Puts a connection where `next` said.
    pub(crate) fn insert(&mut self, client: Client) {
        self.open += 1;
        match self.free.pop() {
            Some(place) => {
                if let Some(empty) = self.places.get_mut(place) {
                    *empty = Some(client);
                }
            }
            None => self.places.push(Some(client)),
        }
    }

    pub(crate) fn get(&mut self, token: u64) -> Option<&mut Client> {
        let place = usize::try_from(token & 0xffff_ffff).ok()?;
        self.places.get_mut(place)?.as_mut().filter(|client| u64::from(client.generation) == token >> 32)
    }

    pub(crate) fn remove(&mut self, token: u64) -> Option<Client> {
        self.get(token)?;
        let place = usize::try_from(token & 0xffff_ffff).ok()?;
        let client = self.places.get_mut(place)?.take()?;
        self.free.push(place);
        self.open -= 1;
        if self.open == 0 {
            // After a storm its memory goes back; tokens stay unique by their generation.
            self.places = Vec::new();
            self.free = Vec::new();
        }
        Some(client)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Client)> {
        let token = |(place, client): (usize, &Client)| u64::from(client.generation) << 32 | place as u64;
        self.places
            .iter()
            .enumerate()
            .filter_map(|(place, client)| Some((place, client.as_ref()?)))
            .map(move |(place, client)| (token((place, client)), client))
    }

    /// The connection that has held its place for the longest time without a whole request.
    pub(crate) fn oldest_unfinished(&self) -> Option<u64> {
        let unfinished = self.iter().filter(|(_, client)| client.is_unfinished());
        unfinished.min_by_key(|(_, client)| client.since).map(|(token, _)| token)
    }

    /// The connection that holds most for a request that is not whole.
    pub(crate) fn largest_unfinished(&self) -> Option<u64> {
        let holders =
            self.iter().filter(|(_, c)| matches!(c.phase, Phase::Head | Phase::Body(_)) && c.charged > 0);
        holders.max_by_key(|(_, client)| client.charged).map(|(token, _)| token)
    }
}
