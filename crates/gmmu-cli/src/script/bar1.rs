//! What BAR1 and the instance blocks of channels do in a script.

use gmmu::bar1::{Bar1, MapFailed, MappingId, Owned, Owner, Usage};
use gmmu::format::Format;
use gmmu::vmm::Live;

use super::jobs::request;
use super::ops::{Bar1Op, Inst, Map};
use super::refusal::Refusal;
use super::runner::{Held, Runner};
use crate::machine::{Data, Machine};

/// A mapping of BAR1, and its name.
struct Mapping {
    name: String,
    space: String,
    id: MappingId,
    /// Who it belongs to, as BAR1 tells it.
    owner: u64,
}

/// All that a script has mapped in BAR1.
#[derive(Default)]
pub(super) struct Mappings {
    list: Vec<Mapping>,
    /// How many there were.
    made: u64,
}

impl Mappings {
    fn find(&self, name: &str) -> Result<(usize, &Mapping), Refusal> {
        let found = self.list.iter().enumerate().find(|(_, mapping)| mapping.name == name);
        found.ok_or_else(|| Refusal::plain(format!("BAR1 has no mapping {name}")))
    }

    fn name_of(&self, owner: Owner) -> String {
        let found = self.list.iter().find(|mapping| owner == Owner::Number(mapping.owner));
        found.map_or_else(|| owner.to_string(), |mapping| mapping.name.clone())
    }

    /// A space is gone, and its mappings with it.
    pub(super) fn closed(&mut self, space: &str) {
        self.list.retain(|mapping| mapping.space != space);
    }
}

/// How full BAR1 is, and of what.
#[derive(Clone, Debug)]
pub struct Occupancy {
    /// The space that it goes through.
    pub space: String,
    /// In numbers.
    pub usage: Usage,
    /// The mappings in the order of their offsets, with their names.
    pub mappings: Vec<(String, Owned)>,
}

impl<F: Format> Runner<F> {
    /// `inst`
    pub(super) fn inst(&mut self, inst: &Inst) -> Result<(), Refusal> {
        match inst {
            Inst::Bind(name, _) if self.channels.contains_key(name) => {
                Err(Refusal::plain(format!("there is an instance block {name} already: inst unbind {name}")))
            }
            Inst::Bind(name, space) => {
                let pdb = self.held(space)?.vmm().pdb();
                let channel = self.machine.bind_channel(pdb).map_err(|why| Refusal::inst(&why))?;
                self.channels.insert(name.clone(), channel);
                Ok(())
            }
            Inst::Unbind(name) => {
                let channel = self.channels.remove(name);
                let channel = channel.ok_or_else(|| Refusal::plain(format!("there is no instance block {name}")))?;
                self.machine.unbind_channel(channel).map_err(|(channel, why)| {
                    self.channels.insert(name.clone(), channel);
                    Refusal::of(&why)
                })
            }
        }
    }

    /// `bar1`
    pub(super) fn bar1(&mut self, op: &Bar1Op) -> Result<(), Refusal> {
        match op {
            Bar1Op::Bind(space) => self.bar1_bind(space),
            Bar1Op::Unbind => match self.machine.unbind_bar1() {
                Ok(true) => Ok(()),
                Ok(false) => Err(unbound()),
                Err(why) => Err(Refusal::of(&why)),
            },
            Bar1Op::Map(name, map) => self.bar1_map(name, map),
            Bar1Op::Unmap(name) => {
                let (index, Mapping { space, id, .. }) = self.bar1.find(name)?;
                let (space, id) = (space.clone(), id.clone());
                let (machine, bar1) = self.bar1_parts(&space)?;
                machine.unmap_bar1(bar1, &id).map_err(|why| Refusal::of(&why))?;
                self.bar1.list.remove(index);
                Ok(())
            }
            Bar1Op::Write(name, offset, width, value) => {
                self.bar1_access(name, |bar1, id, machine| bar1.write(id, machine.gpu(), *offset, *width, *value))
            }
            Bar1Op::Read(name, offset, width, wanted) => {
                let found =
                    self.bar1_access(name, |bar1, id, machine| bar1.read(id, machine.gpu(), *offset, *width))?;
                if found == *wanted {
                    return Ok(());
                }
                let digits = 2 + 2 * width.bytes() as usize;
                Err(Refusal::plain(format!("found {found:#0digits$x}, not {wanted:#0digits$x}")))
            }
        }
    }

    /// Gives a space to BAR1, and binds BAR1 to it.
    fn bar1_bind(&mut self, space: &str) -> Result<(), Refusal> {
        let aperture = self.machine.gpu().bar1_bytes();
        let index = self.index(space)?;
        let (name, held) = self.spaces.remove(index);
        let pdb = held.vmm().pdb();
        let (held, given) = match held {
            Held::Own(vmm) => match Bar1::new(vmm, aperture) {
                Ok(bar1) => (Held::Bar1(bar1), Ok(())),
                Err((vmm, why)) => (Held::Own(vmm), Err(Refusal::of(&why))),
            },
            held @ Held::Bar1(_) => (held, Ok(())),
        };
        self.spaces.insert(index, (name, held));
        given?;
        self.machine.bind_bar1(pdb).map_err(|why| Refusal::inst(&why))
    }

    fn bar1_map(&mut self, name: &str, map: &Map) -> Result<(), Refusal> {
        if self.bar1.find(name).is_ok() {
            return Err(Refusal::plain(format!("BAR1 has a mapping {name} already: bar1 unmap {name}")));
        }
        let space = self.bar1_space().ok_or_else(unbound)?.to_owned();
        let va = map.va.as_ref().map(|at| self.address(at)).transpose()?;
        let (extent, data) = self.memory_of(map)?;
        let extents = [extent];
        let request = request(map, &extents, Live::MustNotFault);
        let request = match va {
            Some(va) => request.at(va),
            None => request,
        };
        let owner = self.bar1.made;
        self.bar1.made += 1;
        let (machine, bar1) = self.bar1_parts(&space)?;
        let (id, result) = match machine.map_bar1(bar1, data, owner, &request) {
            Ok(id) => (id, Ok(())),
            Err(MapFailed::Poisoned { id, why }) => (id, Err(Refusal::of(&why).called("Poisoned"))),
            Err(MapFailed::Refused { backing, why }) => {
                self.give(backing);
                return Err(Refusal::of(&why));
            }
        };
        self.bar1.list.push(Mapping { name: name.to_owned(), space, id, owner });
        result
    }

    fn bar1_access<T, E: std::fmt::Debug + ToString>(
        &mut self,
        name: &str,
        access: impl FnOnce(&Bar1<F, Option<Data>>, &MappingId, &mut Machine) -> Result<T, E>,
    ) -> Result<T, Refusal> {
        let (_, Mapping { space, id, .. }) = self.bar1.find(name)?;
        let (space, id) = (space.clone(), id.clone());
        let (machine, bar1) = self.bar1_parts(&space)?;
        access(bar1, &id, machine).map_err(|why| Refusal::of(&why))
    }

    /// The machine and the mappings through one space, which BAR1 has to go through.
    fn bar1_parts(&mut self, space: &str) -> Result<(&mut Machine, &mut Bar1<F, Option<Data>>), Refusal> {
        let index = self.index(space)?;
        match self.spaces.get_mut(index) {
            Some((_, Held::Bar1(bar1))) if self.machine.bar1_root() == Some(bar1.vmm().pdb()) => {
                Ok((&mut self.machine, bar1))
            }
            _ => Err(unbound()),
        }
    }

    /// The space that BAR1 goes through.
    fn bar1_space(&self) -> Option<&str> {
        let root = self.machine.bar1_root()?;
        self.spaces().find(|(_, vmm)| vmm.pdb() == root).map(|(name, _)| name)
    }

    /// How full BAR1 is; `None` where it goes through no space.
    #[must_use]
    pub fn occupancy(&self) -> Option<Occupancy> {
        let space = self.bar1_space()?;
        let Ok(Held::Bar1(bar1)) = self.held(space) else { return None };
        let mappings = bar1.owners().map(|owned| (self.bar1.name_of(owned.owner), owned)).collect();
        Some(Occupancy { space: space.to_owned(), usage: bar1.usage(), mappings })
    }
}

fn unbound() -> Refusal {
    Refusal::named("NotBound", "BAR1 goes through no space, or another one: bar1 bind SPACE")
}
