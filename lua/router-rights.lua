-- Lets the imaging router's account in Orthanc do what the router needs, and nothing else.
--
-- What it does: Orthanc knows accounts and no rights; whoever has a name and a password may delete the archive. This script looks at every
-- HTTP request of one account, the router's, and refuses (HTTP 403, a line in Orthanc's log) whatever is not in the list below. It
-- reads method and path as Orthanc itself has understood them, and lets nothing through that it does not know. Every other account
-- keeps what it can do.
--
-- Installing: add it to "LuaScripts" in Orthanc's configuration, with "AuthenticationEnabled": true (without it, names mean nothing):
--     "LuaScripts": ["/etc/orthanc/lua/router-rights.lua", "/etc/orthanc/lua/on-stored-instance.lua"]
-- An IncomingHttpRequestFilter of your own goes on working where it is loaded before: this one asks it after its own answer. One that is
-- loaded later replaces this one, unless it calls the earlier one as well.
--
-- What it cannot do: it does not see the body of a request. So the router's account can send any instance to any destination that
-- Orthanc's configuration names, and, with "modalities", to an address of its own choice (Orthanc takes one in the request). Take
-- "modalities" and "dicomweb" out of the setting below where only peers are used.
--
-- Works with Orthanc 1.12 and newer.

local settings = {
  -- The name of the router's account (orthanc.username in the router's configuration). IMAGING_ROUTER_ACCOUNT
  account = 'imaging-router',

  -- The labels it may set and remove begin with this (publish.label_prefix). IMAGING_ROUTER_LABEL_PREFIX
  label_prefix = 'bodypart-',

  -- The metadata it may write and delete (publish.metadata). IMAGING_ROUTER_METADATA
  metadata = '5110,5111,5113',

  -- The kinds of destination it may send to: peers, modalities, dicomweb, transfers. IMAGING_ROUTER_SENDS_TO
  sends_to = 'peers,modalities,dicomweb',
}

-- Everything below is local to this file, so that it cannot clash with another script.

for name in pairs(settings) do
  local value = os.getenv('IMAGING_ROUTER_' .. string.upper(name))
  if value ~= nil and value ~= '' then
    settings[name] = value
  end
end

-- The words of the paths below, and the patterns that they stand for.
local eight = string.rep('[0-9a-f]', 8)
local words = {
  ['<id>'] = eight .. string.rep('%-' .. eight, 4),
  ['<job>'] = eight .. string.rep('%-' .. string.rep('[0-9a-f]', 4), 3) .. '%-' .. string.rep('[0-9a-f]', 12),
  ['<number>'] = '[0-9]+',
  ['<name>'] = '[%w_][%w_.%-]*', -- of a peer, a modality, a server, a plugin
  ['<label>'] = '[%w_%-]+',
  ['<uid>'] = '[0-9.]+',
}

local allowed = { GET = {}, POST = {}, PUT = {}, DELETE = {} }

local function plain(text) -- a text in which nothing is a pattern
  return (string.gsub(text, '[%-%.]', '%%%0'))
end

local function allow(method, path)
  local pattern = string.gsub(plain(path), '<%w+>', words)
  table.insert(allowed[method], '^' .. pattern .. '$')
end

-- What this Orthanc is, and what happened in it.
allow('GET', '/system')
allow('GET', '/changes')
allow('GET', '/plugins')
allow('GET', '/plugins/<name>')

-- Instances, series and studies: read, never changed. Bulk content is a request that only reads; the ids are in its body.
allow('POST', '/tools/bulk-content')
allow('GET', '/instances/<id>/file')
allow('GET', '/instances/<id>/tags') -- for rules that ask for tags
allow('GET', '/studies/<id>/statistics') -- for rules that ask how much a study holds
allow('GET', '/instances/<id>/attachments/dicom/info')
allow('GET', '/instances/<id>/attachments/dicom/md5')

-- Metadata and labels: all are read, only the router's own are written.
for _, level in ipairs({ 'instances', 'series', 'studies' }) do
  allow('GET', '/' .. level .. '/<id>/metadata/<number>')
  for number in string.gmatch(settings.metadata, '%d+') do
    allow('PUT', '/' .. level .. '/<id>/metadata/' .. number)
    allow('DELETE', '/' .. level .. '/<id>/metadata/' .. number)
  end
  allow('GET', '/' .. level .. '/<id>/labels')
  allow('PUT', '/' .. level .. '/<id>/labels/' .. settings.label_prefix .. '<label>')
  allow('DELETE', '/' .. level .. '/<id>/labels/' .. settings.label_prefix .. '<label>')
end

-- Destinations: which there are, whether they answer, and sending. A sending job is followed to its end, or ended.
allow('GET', '/peers')
allow('GET', '/peers/<name>/system')
allow('GET', '/modalities')
allow('GET', '/dicom-web/servers')
allow('GET', '/jobs')
allow('GET', '/jobs/<job>')
allow('POST', '/jobs/<job>/cancel')
local sending = {
  peers = { '/peers/<name>/store' },
  modalities = { '/modalities/<name>/store', '/modalities/<name>/echo' },
  dicomweb = { '/dicom-web/servers/<name>/stow' },
  transfers = { '/transfers/send' },
}
local asking = {
  modalities = { '/storage-commitment/<uid>' }, -- what a modality has committed itself to keep
  transfers = { '/transfers/peers' },
}
for kind in string.gmatch(settings.sends_to, '%a+') do
  if sending[kind] == nil then
    print('imaging router: IMAGING_ROUTER_SENDS_TO names ' .. kind .. ', which is none of peers, modalities, dicomweb, transfers')
  end
  for _, path in ipairs(sending[kind] or {}) do
    allow('POST', path)
  end
  for _, path in ipairs(asking[kind] or {}) do
    allow('GET', path)
  end
end

local function mayBeAsked(method, uri)
  for _, pattern in ipairs(allowed[method] or {}) do
    if string.find(uri, pattern) then
      return true
    end
  end
  return false
end

local previous = IncomingHttpRequestFilter

function IncomingHttpRequestFilter(method, uri, ip, username, httpHeaders)
  if username == settings.account and not mayBeAsked(method, uri) then
    print('imaging router: refused to the account ' .. settings.account .. ': ' .. method .. ' ' .. string.gsub(uri, '%c', '?'))
    return false
  end
  if previous ~= nil then
    return previous(method, uri, ip, username, httpHeaders)
  end
  return true
end

print('imaging router: the account ' .. settings.account .. ' may do what the router needs, and nothing else')
